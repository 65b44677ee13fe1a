"""Every method on splats, with a second GPU for the prior.

Resuming, a region, steering, the panel, refinement, evaluation, and the commands without a scene come once each, with
the prior beside the scene: the whole product of methods and actions would take minutes more and runs the same lines.
"""

import pytest

from .conftest import Machine
from .edits import (
    KINDS,
    assert_no_mismatch,
    cameras_fetched,
    check_every_action,
    check_every_method,
    photographs_are_edited_and_learned_from,
)

pytestmark = pytest.mark.slow

FAMILY = "splatfacto"
WAITS = {"sds": 2, "dds": 2, "pds": 2, "ssd": 2, "dvrf": 2, "vsd": 3, "piva": 4, "pnr": 2, "refine": 2, "idu": 4}
"""How often the host waits for a GPU in a step."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_mixes_devices_and_none_waits_more_often_than_said(machine: Machine, toy_splats, kind):
    check_every_method(machine, toy_splats.parent, kind, FAMILY, WAITS[kind])


def test_a_steered_edit_within_a_box_is_shown_resumed_refined_and_evaluated(
    machine: Machine, toy_splats, steering, free_port, tmp_path
):
    ran = check_every_action(machine, toy_splats.parent, FAMILY, steering, free_port(), tmp_path)
    assert ran.of_kind("fetch", step=0)
    for step in (1, 2, 3):  # of the view that step 0 showed
        assert cameras_fetched(ran, step) == []


def test_photographs_are_edited_and_learned_from_on_a_gpu(machine: Machine, toy_scene, tmp_path):
    assert_no_mismatch(photographs_are_edited_and_learned_from(machine, toy_scene, tmp_path))
