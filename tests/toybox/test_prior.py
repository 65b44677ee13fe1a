"""The weights in the package: complete, small, loadable by diffusers, and able to draw what they are asked for."""

from pathlib import Path

import pytest
import torch

from pds_nerfstudio.evaluation.metrics import TOYBOX_CLIP, ClipScorer, psnr
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.control import TOYBOX_CONTROL
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import COLOURS, SHAPES, SceneSpec, held_out_captions


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_the_weights_are_small():
    assert megabytes(TOYBOX) <= 12
    assert megabytes(TOYBOX_CLIP) <= 3
    assert megabytes(TOYBOX_CONTROL) <= 5


def test_diffusers_own_pipeline_loads_the_folder():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(TOYBOX)
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    image = pipeline("a photo of a red ball", num_inference_steps=2, output_type="pt").images
    assert image.shape == (1, 3, 64, 64)


def test_the_vae_returns_renders_at_30_db():
    prior = load_prior("toybox", "cpu")
    specs = [SceneSpec(SHAPES[i % 10], COLOURS[(i + i // 8) % 8], hat=i % 2 == 0) for i in range(40)]
    cameras = capture_cameras(40, seed=99)
    images = torch.cat([render(s, c[None], 64, 64).image for s, c in zip(specs, cameras, strict=True)]).movedim(-1, 1)
    assert psnr(prior.decode(prior.encode(images).detach()), images).mean() > 30


@pytest.mark.slow
def test_samples_show_colours_and_shapes_never_trained_together():
    """40 samples of 25 steps; the bars are those of the full table less three standard deviations of 40 draws."""
    prior, scorer = load_prior("toybox", "cpu"), ClipScorer.load()
    asked = held_out_captions()[::5]
    generator = torch.Generator().manual_seed(0)
    samples = prior.sample([caption for _, caption in asked], 64, 64, 25, 4.0, generator)
    right = {"colour": 0, "shape": 0}
    for image, (spec, _) in zip(samples, asked, strict=True):
        known = {"shape": spec.shape, "colour": spec.colour, "hat": spec.hat}
        for field, values in (("colour", COLOURS), ("shape", SHAPES)):
            prompts = [SceneSpec(**(known | {field: value})).prompt(floor=False) for value in values]
            right[field] += int(scorer.similarity(image[None], prompts).argmax()) == values.index(known[field])
    assert right["colour"] >= 0.76 * 40
    assert right["shape"] >= 0.68 * 40
