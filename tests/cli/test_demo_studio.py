"""`pds demo --world studio`: the whole job on packaged photographs, a few steps of each stage."""

import json

import pytest

from pds_nerfstudio.cli.demo import Demo
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.splats import SplatScene


@pytest.mark.slow
def test_a_capture_is_reconstructed_edited_compared_and_exported(run_here, tmp_path, monkeypatch):
    monkeypatch.setattr(SplatScene, "film", (3, 64))
    out, steps = tmp_path / "demo", ("--steps", 4, "--reconstruction-steps", 20, "--guidance-scale", 3)
    run_here("pds", "demo", "--world", "studio", "--edit", "mug-book", *steps, "--no-refine", "--out", out)
    report = json.loads((out / "report.json").read_text())
    assert (report["edit"], report["method"]) == ("mug-book", "pnr-edit-splat")
    assert report["source_prompt"] == "a photo of a blue mug"
    assert report["background_psnr"] > 30
    assert 0 <= report["target_probability_before"] <= 1
    for file in ("contact_sheet.png", "orbit.mp4", "export/edited.ply"):
        assert (out / "mug-book" / file).stat().st_size > 1000
    told = next((out / "mug-book" / "runs" / "edited").glob("*/*/config.yml")).read_text()
    assert "guidance_scale: 3" in told
    assert "prior: studio" in told


def test_its_scenes_are_splats():
    with pytest.raises(UserError, match=r"reconstructed as splats: leave --family out"):
        Demo(world="studio", family="nerfacto")
