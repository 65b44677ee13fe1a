"""The formulas against values computed by hand, and the judge against renders with known content."""

import math

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.metrics import (
    ClipScorer,
    cosine,
    directional_consistency,
    directional_similarity,
    psnr,
    ssim,
    target_probability,
)
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import COLOURS, SHAPES, SceneSpec


def test_psnr_of_a_constant_error_is_known():
    images = torch.full((2, 3, 4, 4), 0.5)
    assert psnr(images, images + 0.1).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert psnr(images, images).tolist() == [math.inf, math.inf]


def test_psnr_in_a_mask_ignores_what_lies_outside():
    images, reference = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    reference[..., 0, 0] = 1.0
    mask = torch.ones(1, 2, 2)
    mask[:, 0, 0] = 0
    assert psnr(images, reference, mask).tolist() == [math.inf]
    assert psnr(images, reference, 1 - mask).tolist() == [0.0]


def test_ssim_in_a_mask_is_that_of_its_pixels():
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = images.clone()
    other[..., :8] = 0
    mask = torch.zeros(1, 32, 32)
    mask[..., 20:] = 1
    assert ssim(images, other, mask).item() == pytest.approx(1, abs=1e-6)
    assert ssim(images, other, 1 - mask).item() < ssim(images, other).item() < 0.9
    assert ssim(images, other, torch.ones_like(mask)).item() == pytest.approx(ssim(images, other).item(), abs=0.03)


@pytest.fixture(scope="module")
def scorer():
    return ClipScorer.load()


def test_probabilities_sum_to_one_and_name_the_target(scorer):
    images = torch.rand(3, 3, 64, 64)
    prompts = ["a photo of a ball", "a photo of a cube"]
    assert torch.allclose(scorer.probabilities(images, prompts).sum(-1), torch.ones(3))
    both = sum(target_probability(scorer, images, prompt, prompts) for prompt in prompts)
    assert both == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("field", "values"), [("colour", COLOURS), ("shape", SHAPES)])
def test_the_toybox_judge_recognises_renders(scorer, field, values):
    """At least 27 of 30 views that it was not trained on; `evaluate_toybox_prior.py` measures it properly."""
    specs = [SceneSpec(SHAPES[i % 10], COLOURS[i % 8], hat=i % 3 == 0) for i in range(30)]
    cameras = capture_cameras(30, seed=77)
    right = 0
    for spec, camera in zip(specs, cameras, strict=True):
        image = render(spec, camera[None], 64, 64).image.movedim(-1, 1)
        others = {"shape": spec.shape, "colour": spec.colour, "hat": spec.hat}
        prompts = [SceneSpec(**(others | {field: value})).prompt(floor=False) for value in values]
        right += int(scorer.similarity(image, prompts).argmax()) == values.index(getattr(spec, field))
    assert right >= 27


def test_a_missing_judge_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        ClipScorer.load(tmp_path)


def test_ssim_of_equal_images_is_one_and_of_noise_is_less():
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert (ssim(images, images.flip(-1)) < 0.5).all()


def test_an_unchanged_image_has_no_direction(scorer):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = "a photo of a red ball", "a photo of a blue ball"
    assert directional_similarity(scorer, images, images, *prompts).tolist() == [0.0, 0.0]
    assert directional_similarity(scorer, images, images.flip(0), prompts[0], prompts[0]).tolist() == [0.0, 0.0]
    assert directional_consistency(scorer, images, images).tolist() == [0.0]


def test_the_direction_of_the_asked_change_is_positive_and_that_of_the_opposite_one_negative(scorer):
    cameras = capture_cameras(3, seed=5)
    red, blue = (render(SceneSpec("ball", colour), cameras, 64, 64).image.movedim(-1, 1) for colour in ("red", "blue"))
    prompts = "a photo of a red ball", "a photo of a blue ball"
    forth, back = (
        directional_similarity(scorer, red, blue, *prompts),
        directional_similarity(scorer, blue, red, *prompts),
    )
    assert (forth > 0.2).all()
    torch.testing.assert_close(back, -forth)
    assert (directional_consistency(scorer, red, blue) > 0.5).all()


def test_cosine_by_hand():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 0.0]])
    assert cosine(a, b).tolist() == pytest.approx([0.96, -1.0, 0.0])
