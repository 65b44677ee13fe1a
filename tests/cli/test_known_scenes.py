"""`pds toybox` and `pds studio` write over nothing but their own scenes."""

import pytest

from pds_nerfstudio.cli.studio import Studio
from pds_nerfstudio.cli.toybox import Toybox
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.studio.spec import STILLS


@pytest.mark.parametrize(
    "make",
    [
        lambda out: Studio(capture="vase", out=out),
        lambda out: Studio(edit="vase-flower", out=out),
        lambda out: Studio(caption=STILLS[0].source.prompt(), out=out),
        lambda out: Toybox("red-to-blue", out=out),
    ],
)
def test_a_folder_with_something_else_is_left_alone(make, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "transforms.json").write_text("somebody's own")
    (tmp_path / "edit.json").write_text("[]")
    with pytest.raises(UserError, match="give a folder that is new with --out"):
        make(tmp_path).run()
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == ["edit.json", "source/transforms.json"]


def test_a_toybox_scene_may_be_made_again(tmp_path):
    small = {"size": 16, "train_views": 2, "test_views": 1, "num_points": 10}
    Toybox("red-to-blue", out=tmp_path, **small).run()
    Toybox("red-to-blue", out=tmp_path, **small).run()
    with pytest.raises(UserError, match="was made with --seed 0"):
        Toybox("red-to-blue", out=tmp_path, **small, seed=1).run()
    with pytest.raises(UserError, match="something else than can-to-cone"):
        Toybox("can-to-cone", out=tmp_path, **small).run()
