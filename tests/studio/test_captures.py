"""The captures that the package has."""

import json

import pytest
from PIL import Image

from pds_nerfstudio.studio.captures import PACKAGED, copy_capture, packaged
from pds_nerfstudio.studio.spec import STILLS

MEGABYTES = 9


def test_all_are_there_and_small():
    assert packaged() == list(STILLS)
    assert sum(path.stat().st_size for path in PACKAGED.rglob("*") if path.is_file()) < MEGABYTES * 2**20


@pytest.mark.parametrize("still", STILLS, ids=lambda still: still.name)
def test_each_has_fifty_photographs_and_held_out_views_of_every_answer(still, tmp_path):
    copy_capture(still, tmp_path)
    source = json.loads((tmp_path / "source/transforms.json").read_text())
    assert (len(source["train_filenames"]), len(source["val_filenames"])) == (50, 6)
    for edit in still.edits:
        target = json.loads((tmp_path / edit.name / "target/transforms.json").read_text())
        held_out = {frame["file_path"]: frame["transform_matrix"] for frame in target["frames"]}
        same = {f["file_path"]: f["transform_matrix"] for f in source["frames"] if f["file_path"] in held_out}
        assert held_out == same
        assert sorted(held_out) == sorted(source["val_filenames"])
        for name in held_out:
            with Image.open(tmp_path / edit.name / "target" / name) as picture:
                assert picture.size == (384, 384)
        prompts = json.loads((tmp_path / edit.name / "edit.json").read_text())
        assert edit.target_prompt in prompts.values()
