"""`pds demo` on a NeRF: in a file of its own, so that it may run beside the one on splats."""

import functools
import json

import in_process
import pytest

from pds_nerfstudio.evaluation import trial
from pds_nerfstudio.scenes.nerf import NerfScene

pytestmark = pytest.mark.slow


def test_the_demo_runs_on_a_nerf(run_here, tmp_path, monkeypatch):
    """A few steps, views, samples and frames: that every stage works. What a full run reaches is in the
    documentation."""
    few = functools.partial(trial.reconstruct, changes=in_process.FEW_SAMPLES)
    monkeypatch.setattr(trial, "reconstruct", few)
    monkeypatch.setattr(trial, "write_edit", functools.partial(trial.write_edit, train_views=8, test_views=4))
    monkeypatch.setattr(NerfScene, "film", (3, 32))
    out = tmp_path / "demo"
    run_here("pds", "demo", "--family", "nerfacto", "--steps", 4, "--reconstruction-steps", 30, "--out", out)
    report = json.loads((out / "report.json").read_text())
    assert report["method"] == "pnr-edit"
    assert (out / "can-to-cone/orbit.mp4").stat().st_size > 100
    assert (out / "can-to-cone/export/tsdf_mesh.ply").stat().st_size > 1000
