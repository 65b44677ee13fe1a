"""A resumed edit of a NeRF is the same edit: `ns-train METHOD --load-dir EDIT` and nothing else, whatever was set.

What a method keeps, it keeps alike of both families: all of them are tried on splats, which take a third of the time.
"""

from pathlib import Path

import pytest

from .resuming import check_resuming

NERFS = ("pnr-edit", "sdedit-refine")
"""One whose scene is rendered and learns in every step, in two stages, and one whose photographs are redrawn."""


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
