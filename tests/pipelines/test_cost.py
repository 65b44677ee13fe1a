"""What a real edit asks of its networks: one U-Net call per step, one encoder pass, and a source encoded once."""

import pytest
from diffusers import UNet2DConditionModel

from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

from .conftest import PROMPTS
from .test_edit import TOYBOX

pytestmark = pytest.mark.slow

STEPS, VIEWS = 16, 12


@pytest.fixture
def calls(monkeypatch) -> dict[str, list[int]]:
    """The batch size of every network call."""
    made: dict[str, list[int]] = {"unet": [], "encode": []}
    forward, encode = UNet2DConditionModel.forward, StableDiffusionPrior.encode

    def counting_forward(self, sample, *args, **kwargs):
        if sample.device.type != "meta":  # on which the memory that a step takes is counted
            made["unet"].append(len(sample))
        return forward(self, sample, *args, **kwargs)

    def counting_encode(self, images, *args):
        made["encode"].append(len(images))
        return encode(self, images, *args)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counting_forward)
    monkeypatch.setattr(StableDiffusionPrior, "encode", counting_encode)
    return made


def test_an_edit_asks_once_per_step_and_encodes_every_source_once(ns_train, toy_splats, calls):
    ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", STEPS)
    assert calls["unet"] == [4] * STEPS
    assert calls["encode"] == [1] * (STEPS + VIEWS)


def test_views_of_one_step_share_one_call(ns_train, toy_splats, calls):
    ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 2),
        *("--pipeline.views-per-step", 3),
    )
    assert calls["unet"] == [12, 12]
    assert calls["encode"].count(3) == 2
    assert set(calls["encode"]) == {1, 3}  # sources, which are logged before the first step, and the renderings
