"""Iterative dataset update through `ns-train`, by either editor: of splats and NeRFs, and told nonsense."""

import pytest
import torch

from pds_nerfstudio.scenes.source import find_run, fingerprint, load_source_state

from .conftest import PROMPTS
from .test_edit import scene_of
from .test_refine import images_of

pytestmark = pytest.mark.slow

TOYBOX = (
    *("--pipeline.prior", "toybox", "--pipeline.recipe", "none", "--pipeline.resolution", "32"),
    *("--pipeline.num-steps", 2),
)
INVERSION = ("--pipeline.editor", "inversion", "--pipeline.inversion.num-steps", 3)


@pytest.mark.parametrize("editor", [(), INVERSION], ids=["instruct", "inversion"])
def test_splats_train_on_edited_images_and_the_source_run_is_left_alone(ns_train, toy_splats, editor):
    before = fingerprint(toy_splats.parent)
    config = ns_train(
        *("idu-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *editor),
        *("--max-num-iterations", 22),
    )
    old = load_source_state(find_run(toy_splats))["_model.gauss_params.features_dc"]
    assert not torch.equal(scene_of(config)["_model.gauss_params.features_dc"], old)
    assert len(images_of(config)) == 3
    assert fingerprint(toy_splats.parent) == before


def test_a_nerf_too(ns_train, toy_nerf):
    config = ns_train(
        *("idu-edit", "--load-dir", toy_nerf.parent, *PROMPTS, *TOYBOX),
        *("--max-num-iterations", 2, "--pipeline.update-every", 1),
    )
    assert all(value.isfinite().all() for value in scene_of(config).values())
    assert len(images_of(config)) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pipeline.min-strength", 0.99), "min_strength is 0.99"),
        (("--pipeline.inversion.strength", 2.0), "strength is 2.0"),
        (("--pipeline.control", "somewhere"), "--pipeline.control"),
    ],
)
def test_settings_that_cannot_work_are_refused(ns_train, toy_splats, flags, message, capfd):
    with pytest.raises(SystemExit) as ended:
        ns_train("idu-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, *flags)
    assert ended.value.code != 0
    assert message in " ".join(capfd.readouterr().err.replace("│", " ").split())
