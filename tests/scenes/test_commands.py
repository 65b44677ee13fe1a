"""nerfstudio's own commands, on its own nerfacto, made and read on a machine without CUDA or network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SPECS = ",".join(f"source-{family}=pds_nerfstudio.methods:source_{family}" for family in ("nerfacto", "splatfacto"))


def run(command: str, *arguments) -> str:
    """Run a nerfstudio command to its end; its output, or the test fails with it."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "NERFSTUDIO_METHOD_CONFIGS": SPECS}
    script = Path(sys.executable).with_name(command)
    result = subprocess.run(
        [script, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module", params=["nerfacto", "source-nerfacto", "source-splatfacto"])
def config(request, fox, tmp_path_factory) -> Path:
    """`config.yml` of a run of eight steps on the real capture, at an eighth of its size."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--output-dir", folder, "--experiment-name", "fox", "--timestamp", "now", "--vis", "tensorboard"]
    options += ["--max-num-iterations", 8, "--pipeline.datamanager.camera-res-scale-factor", 0.125]
    if request.param == "source-splatfacto":
        options += ["--pipeline.model.num-random", 500]
    else:
        options += ["--pipeline.datamanager.train-num-rays-per-batch", 128, "--pipeline.model.log2-hashmap-size", 12]
    if request.param == "nerfacto":
        options += ["--machine.device-type", "cpu", "--pipeline.model.implementation", "torch"]
    run("ns-train", request.param, *options, "nerfstudio-data", "--data", fox)
    return folder / "fox" / request.param / "now" / "config.yml"


def test_ns_eval_ends_well_with_or_without_lpips(config, tmp_path):
    run("ns-eval", "--load-config", config, "--output-path", tmp_path / "metrics.json")
    assert 5 < json.loads((tmp_path / "metrics.json").read_text())["results"]["psnr"] < 40


def test_ns_render_writes_held_out_views(config, tmp_path):
    options = ["--load-config", config, "--output-path", tmp_path, "--split", "test", "--rendered-output-names", "rgb"]
    run("ns-render", "dataset", *options)
    assert len(list((tmp_path / "test/rgb").glob("*.jpg"))) == 5


def test_ns_export_writes_the_scene(config, tmp_path):
    splats = "splatfacto" in str(config)
    options = [
        "--num-points",
        200,
        "--num-rays-per-batch",
        128,
        "--normal-method",
        "open3d",
        "--remove-outliers",
        False,
    ]
    kind, extra = ("gaussian-splat", []) if splats else ("pointcloud", options)
    run("ns-export", kind, "--load-config", config, "--output-dir", tmp_path, *extra)
    assert list(tmp_path.glob("*.ply"))
