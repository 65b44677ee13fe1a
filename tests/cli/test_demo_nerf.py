"""`pds demo` on a NeRF: in a file of its own, so that it may run beside the one on splats."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_the_demo_runs_on_a_nerf(run_command, tmp_path):
    """A few steps only: that every stage works. What a full run reaches is in the documentation."""
    out = tmp_path / "demo"
    short = ("--steps", 4, "--reconstruction-steps", 30)
    run_command("pds", "demo", "--family", "nerfacto", *short, "--out", out, timeout=900)
    report = json.loads((out / "report.json").read_text())
    assert report["method"] == "pnr-edit"
    assert (out / "can-to-cone/export/tsdf_mesh.ply").stat().st_size > 1000
