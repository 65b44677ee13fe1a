"""Every method on NeRFs, as `test_splats.py` has them on splats."""

import pytest

from .conftest import Machine
from .edits import KINDS, cameras_fetched, check_every_action, check_every_method

pytestmark = pytest.mark.slow

FAMILY = "nerfacto"
WAITS = {
    "sds": 42,
    "dds": 24,
    "pds": 24,
    "ssd": 24,
    "dvrf": 24,
    "dreamcatalyst": 24,
    "vsd": 26,
    "piva": 27,
    "pnr": 24,
    "refine": 6,
    "idu": 30,
}
"""How often the host waits for a GPU in a step. Of these, 18 are nerfstudio's `generate_rays`, for each view (sds shows
two), four the gradient scaler's, five with adapters; the others are as with splats."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_mixes_devices_and_none_waits_more_often_than_said(machine: Machine, toy_nerf, kind):
    check_every_method(machine, toy_nerf.parent, kind, FAMILY, WAITS[kind])


def test_a_steered_edit_within_a_box_is_shown_resumed_refined_and_evaluated(
    machine: Machine, toy_nerf, steering, free_port, tmp_path
):
    ran = check_every_action(machine, toy_nerf.parent, FAMILY, steering, free_port(), tmp_path)
    assert ran.of_kind("fetch", step=0)
    for step in (1, 2, 3):  # of the view that step 0 showed
        assert cameras_fetched(ran, step) == []
