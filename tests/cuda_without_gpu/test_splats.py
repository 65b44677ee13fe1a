"""Every method on splats, with a second GPU for the prior.

Resuming, a region, steering, the panel, refinement, evaluation, and the commands without a scene come once each, with
the prior beside the scene: the whole product of methods and actions would take minutes more and runs the same lines.
"""

import pytest

from .conftest import Machine
from .edits import (
    KINDS,
    TWO_DEVICES,
    assert_no_mismatch,
    cameras_fetched,
    check_every_action,
    check_every_method,
    photographs_are_edited_and_learned_from,
)

pytestmark = pytest.mark.slow

FAMILY = "splatfacto"
WAITS = {
    **dict.fromkeys(("sds", "dds", "pds", "ssd", "dvrf", "dreamcatalyst", "pnr", "refine"), 2),
    **{"vsd": 3, "piva": 4, "idu": 4},
}
"""How often the host waits for a GPU in a step."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_mixes_devices_and_none_waits_more_often_than_said(machine: Machine, toy_splats, kind):
    check_every_method(machine, toy_splats.parent, kind, FAMILY, WAITS[kind])


def test_a_step_with_redraws_waits_once_and_once_for_each(machine: Machine, toy_splats):
    controls = ("redraw-below", 100, "most-redraws", 2, "normalise", 0.15)
    flags = [f"--pipeline.objective.{value}" if isinstance(value, str) else value for value in controls]
    shown = ("--pipeline.views-per-step", 2, "--pipeline.steps-per-view", 2, "--max-num-iterations", 2)
    ran = machine.edit("dds-edit-splat", toy_splats.parent, *flags, *shown, *TWO_DEVICES)
    assert_no_mismatch(ran.events)
    found = ran.of_kind("wait", step=1)
    assert len(found) <= WAITS["dds"] + 3, "\n".join(found)


def test_a_steered_edit_within_a_box_is_shown_resumed_refined_and_evaluated(
    machine: Machine, toy_splats, steering, free_port, tmp_path
):
    ran = check_every_action(machine, toy_splats.parent, FAMILY, steering, free_port(), tmp_path)
    assert ran.of_kind("fetch", step=0)
    for step in (1, 2, 3):  # of the view that step 0 showed
        assert cameras_fetched(ran, step) == []


def test_photographs_are_edited_and_learned_from_on_a_gpu(machine: Machine, toy_scene, tmp_path):
    assert_no_mismatch(photographs_are_edited_and_learned_from(machine, toy_scene, tmp_path))
