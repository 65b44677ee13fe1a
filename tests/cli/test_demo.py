"""`pds demo` from the command line, and the bars that its report has to clear."""

import json

import pytest
from PIL import Image

from pds_nerfstudio.alive import held
from pds_nerfstudio.cli.demo import Demo
from pds_nerfstudio.errors import UserError

pytestmark = pytest.mark.slow


def test_the_demo_edits_shape_and_colour_and_leaves_the_rest(run_command, tmp_path):
    out = tmp_path / "demo"
    done = run_command("pds", "demo", "--out", out, timeout=1800)
    report = json.loads((out / "report.json").read_text())
    assert report["psnr_to_target_after"] >= report["psnr_to_target_before"] + 10
    assert report["background_psnr"] >= 40
    assert report["target_probability_after"] >= 0.8
    assert report["target_probability_before"] < 0.5
    assert {edit["method"] for edit in report["edits"].values()} == {"pnr-edit-splat + sdedit-refine-splat"}
    assert report["edits"]["red-to-blue"]["background_psnr"] >= 50  # only the ball may change
    for name, edit in report["edits"].items():
        assert edit["psnr_to_target_in_change_mask_after"] >= 23, name
        assert edit["target_probability_after"] >= 0.8, name
        for file in ("contact_sheet.png", "orbit.mp4", "export/edited.ply"):
            assert (out / name / file).stat().st_size > 1000
    for file in ("contact_sheet.png", "orbit.mp4", "edited.ply", "report.json"):
        assert file in done.stdout.replace("\n", "")
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.height > 6 * 160  # three rows for each edit
    assert set(report["seconds"]) >= {"scene", "reconstruct", "edit", "refine", "evaluate", "export", "total"}
    assert report["peak_memory_mb"] > 0
    assert report["seed"] == 0


def test_unknown_edits_and_foreign_folders_are_refused_in_one_sentence(run_command, tmp_path):
    assert "can-to-cone" in run_command("pds", "demo", "--edit", "fly", fails=True).stderr
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    done = run_command("pds", "demo", "--out", tmp_path, fails=True)
    assert "choose another folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"


def test_a_demo_is_not_cleared_while_it_runs(tmp_path):
    with held(tmp_path), pytest.raises(UserError, match="Another demo is writing"):
        Demo(out=tmp_path).run()
    assert not any(tmp_path.iterdir())
