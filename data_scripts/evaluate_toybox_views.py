"""Judges the toybox prior's four-view samples: does every view look from where it was asked, and are they one object?

    python data_scripts/evaluate_toybox_views.py --prior outputs/toybox_views/prior

Groups of four views, 90 degrees apart, of random scenes of the named shapes, drawn together. A view's azimuth counts
as right if the nearest (mean squared error) of 24 true renderings around the scene, 15 degrees apart at its
elevation, is within 30 degrees of the one asked for (17 % by chance). The floor may have any of its colours. A group
is one object if the toybox CLIP finds the same caption of shape, colour and hat the likeliest for all four views.
Beside it, the same noise drawn one view at a time, and the true pictures, about which the judge errs too. The sheet
has a row for each group: four samples, then the truth.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from rich.progress import track
from torch import Tensor, nn
from torchvision.utils import save_image

from pds_nerfstudio.evaluation.metrics import TOYBOX_CLIP, ClipScorer, psnr
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.render import orbit_cameras, palette, shade, toybox_matrices, trace
from pds_nerfstudio.toybox.spec import COLOURS, FLOORS, HATS, SHAPES, SceneSpec, Shape, is_held_out

SIZE = 64
VIEWS = 4
AZIMUTHS = 24
WITHIN_DEGREES = 30.0
TURNING: tuple[Shape, ...] = ("man", "man stretching out his arms", "man raising his arms", "ring")
"""Shapes that look different from every side."""
CAPTIONS = [SceneSpec(s, c, hat=h).prompt(floor=False) for s in SHAPES for c in COLOURS for h in HATS]


def pictures(spec: SceneSpec, poses: Tensor) -> Tensor:
    """True renderings [floors views 3 64 64] on floors of all colours."""
    traced = trace(spec, poses, 2 * SIZE, 2 * SIZE)
    images = [shade(traced, palette(replace(spec, floor=floor))).movedim(-1, 1) for floor in FLOORS]
    return torch.stack([nn.functional.avg_pool2d(image, 2) for image in images])


def random_spec(shape: Shape, generator: torch.Generator) -> SceneSpec:
    """A scene whose colour and shape were trained together."""

    def pick(values: list) -> object:
        return values[int(torch.randint(len(values), (), generator=generator))]

    colours = [colour for colour in COLOURS if not is_held_out(SceneSpec(shape, colour))]
    return SceneSpec(shape, pick(colours), pick(list(FLOORS)), pick(list(HATS)))


def degrees_off(samples: Tensor, around: Tensor, azimuth: Tensor) -> Tensor:
    """How far the nearest of the true renderings `around` is from the azimuth asked for, in degrees [views]."""
    errors = (samples[:, None, None] - around[None]).square().mean((3, 4, 5))
    found = errors.amin(1).argmin(1) * 2 * math.pi / AZIMUTHS
    difference = torch.rad2deg(found - azimuth) % 360
    return torch.minimum(difference, 360 - difference)


def main(
    prior: str = "toybox",
    shapes: tuple[Shape, ...] = TURNING,
    groups: int = 40,
    steps: int = 25,
    guidance_scale: float = 4.0,
    sheet: Path = Path("outputs/prior_views.png"),
    seed: int = 0,
) -> None:
    """Print the shares and save the sheet.

    Args:
        prior: diffusers folder of a prior that takes cameras.
        shapes: what to draw, in turn.
        groups: of four views.
        steps: DDIM steps of each.
        guidance_scale: classifier-free guidance.
        sheet: where to save samples and truth.
        seed: of scenes, cameras and noise.
    """
    model, scorer = load_prior(prior, "cpu"), ClipScorer.load(TOYBOX_CLIP)
    generator = torch.Generator().manual_seed(seed)
    rows, table = [], {"together": [], "one by one": [], "(the truth)": []}
    for index in track(range(groups), "groups"):
        spec = random_spec(shapes[index % len(shapes)], generator)
        offset, height = torch.rand(2, generator=generator)
        azimuth = 2 * math.pi * offset + math.pi / 2 * torch.arange(VIEWS)
        elevation = math.radians(14 + 32 * float(height))
        turns = 2 * math.pi * torch.arange(AZIMUTHS) / AZIMUTHS
        around = pictures(spec, orbit_cameras(turns, torch.full_like(turns, elevation)))
        poses = orbit_cameras(azimuth, torch.full_like(azimuth, elevation))
        truth, matrices = pictures(spec, poses), toybox_matrices(poses)
        for way, together in (("together", VIEWS), ("one by one", 1), ("(the truth)", 0)):
            noise = torch.Generator().manual_seed(seed + index)
            samples = truth[FLOORS.index(spec.floor)]
            if together:
                cameras = Viewpoints(matrices, together)
                samples = model.sample([spec.prompt()] * VIEWS, SIZE, SIZE, steps, guidance_scale, noise, cameras)
            said = [CAPTIONS[i] for i in scorer.similarity(samples, CAPTIONS).argmax(1).tolist()]
            table[way].append(
                {
                    "azimuth right": (degrees_off(samples, around, azimuth) <= WITHIN_DEGREES).float().mean(),
                    "four views one caption": float(len(set(said)) == 1),
                    "caption right": sum(caption == spec.prompt(floor=False) for caption in said) / VIEWS,
                    "PSNR to the truth": torch.stack([psnr(samples, floor) for floor in truth]).amax(0).mean(),
                }
            )
            if way == "together":
                rows.append(torch.cat([samples, truth[FLOORS.index(spec.floor)]]))
    print(f"{prior}: {groups} groups of 4 of {', '.join(shapes)}, {steps} steps, guidance {guidance_scale:g}\n")
    names = list(table["together"][0])
    print(f"| drawn | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for way, measured in table.items():
        means = [sum(float(one[name]) for one in measured) / groups for name in names]
        print(f"| {way} | {' | '.join(f'{mean:.1%}' for mean in means[:3])} | {means[3]:.1f} dB |")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(rows[:20]), sheet, nrow=2 * VIEWS)


if __name__ == "__main__":
    tyro.cli(main)
