"""A resumed edit of a NeRF is the same edit: `ns-train METHOD --load-dir EDIT` and nothing else, whatever was set.

Methods that keep nothing but what another one keeps too are tried on splats alone, which take a third of the time.
"""

from pathlib import Path

import pytest

from .resuming import EDITS, check_resuming

COVERED = ("sds-edit", "dds-edit", "pds-edit", "ssd-edit", "dvrf-edit", "dreamcatalyst-edit", "vsd-edit")
"""By Perturb-and-Revise, which keeps more than all of them but the last, and by Piva with its two adapters."""
NERFS = [name for name in EDITS if not name.endswith("-splat") and name not in COVERED]


@pytest.fixture(scope="module")
def clear_nerf(toy_scene) -> Path:
    """`config.yml` of a NeRF that has found its surfaces: a relevant part lies on them."""
    from pds_nerfstudio.evaluation.trial import reconstruct

    return reconstruct("nerfacto", toy_scene / "source", toy_scene.parent / "clear-nerf", steps=60, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", NERFS)
def test_an_edit_that_is_cut_off_and_resumed_ends_as_the_straight_one_to_the_bit(
    method, clear_nerf, toy_scene, tmp_path
):
    check_resuming(method, clear_nerf, toy_scene, tmp_path)
