"""`pds demo` from the command line, and the bars that its report has to clear."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_the_demo_edits_the_scene_and_leaves_the_rest(run_command, tmp_path):
    done = run_command("pds", "demo", "--out", tmp_path / "demo", timeout=1500)
    report = json.loads((tmp_path / "demo/report.json").read_text())
    assert report["psnr_to_target_after"] >= report["psnr_to_target_before"] + 5
    assert report["background_psnr"] >= 28
    assert report["target_probability_after"] >= 0.8
    assert report["target_probability_before"] < 0.5
    for file in ("contact_sheet.png", "orbit.mp4", "export/edited.ply"):
        assert (tmp_path / "demo" / file).stat().st_size > 1000
        assert file in done.stdout.replace("\n", "")
    assert set(report["seconds"]) >= {"scene", "reconstruct", "edit", "evaluate", "export", "total"}
    assert report["peak_memory_mb"] > 0
    assert report["seed"] == 0


def test_the_demo_runs_on_a_nerf(run_command, tmp_path):
    """A few steps only: that every stage works. What a full run reaches is in the documentation."""
    out = tmp_path / "demo"
    run_command(
        "pds", "demo", "--family", "nerfacto", "--steps", 3, "--reconstruction-steps", 30, "--out", out, timeout=900
    )
    report = json.loads((out / "report.json").read_text())
    assert report["method"] == "pds-edit"
    assert (out / "export/tsdf_mesh.ply").stat().st_size > 1000


def test_unknown_edits_and_foreign_folders_are_refused_in_one_sentence(run_command, tmp_path):
    assert "can-to-cone" in run_command("pds", "demo", "--edit", "fly", fails=True).stderr
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    done = run_command("pds", "demo", "--out", tmp_path, fails=True)
    assert "choose another folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"
