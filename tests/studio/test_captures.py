"""The captures that the package has."""

import json

import pytest
from PIL import Image

from pds_nerfstudio.cli.studio import Studio
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.studio import captures
from pds_nerfstudio.studio.captures import PACKAGED, copy_capture, files_of, packaged
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


def test_an_interrupted_copy_goes_on_and_leaves_whole_files_alone(tmp_path, monkeypatch):
    vase = STILLS[0]
    copyfile, copied = captures.shutil.copyfile, []

    def stop(source, target):
        copied.append(target)
        if len(copied) == 3:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        copyfile(source, target)

    monkeypatch.setattr(captures.shutil, "copyfile", stop)
    with pytest.raises(KeyboardInterrupt):
        copy_capture(vase, tmp_path)
    monkeypatch.undo()
    whole = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(whole) == 2
    Studio(capture="vase", out=tmp_path).run()
    assert all(path.stat().st_mtime_ns == written for path, written in whole.items())
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == set(files_of(vase))
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds what is not of this capture"):
        Studio(capture="vase", out=tmp_path).run()
