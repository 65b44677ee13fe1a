"""A resumed edit of splats is the same edit: `ns-train METHOD --load-dir EDIT` and nothing else, whatever was set."""

import pytest

from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.command_line import named
from pds_nerfstudio.pipelines.settings import Compute
from pds_nerfstudio.pipelines.settings_tree import settings

from .resuming import EDITS, NOT_SET, check_resuming, flags_off_default

SPLATS = [name for name in EDITS if name.endswith("-splat")]


@pytest.mark.slow
@pytest.mark.parametrize("method", SPLATS)
def test_an_edit_that_is_cut_off_and_resumed_ends_as_the_straight_one_to_the_bit(
    method, toy_splats, toy_scene, tmp_path
):
    check_resuming(method, toy_splats, toy_scene, tmp_path)


@pytest.mark.parametrize("method", EDITS)
def test_every_setting_of_a_method_has_a_flag_that_is_off_its_default_here(method, tmp_path):
    """So that the tests of both families forget none."""
    flags = named(flags_off_default(method, tmp_path))
    for name, holder in settings(METHODS[method].config.pipeline):
        if name not in (*NOT_SET, "click") and not isinstance(holder, Compute):  # click becomes pick
            assert any(flag.split(".")[1] == name for flag in flags if flag.startswith("pipeline.")), name
