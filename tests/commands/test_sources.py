"""nerfstudio's own commands, on its own nerfacto and on our sources, made and read without CUDA or network."""

import json

import in_process
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("source", ["splats", "nerf", "built_in"])
def test_ns_eval_ends_well_with_or_without_lpips(run_command, sources, source, tmp_path):
    run = run_command if source == "built_in" else in_process.console_script
    run("ns-eval", "--load-config", getattr(sources, source), "--output-path", tmp_path / "metrics.json")
    assert 5 < json.loads((tmp_path / "metrics.json").read_text())["results"]["psnr"] < 40


def test_ns_render_writes_held_out_views(run_command, sources, tmp_path):
    options = ("--output-path", tmp_path, "--split", "test", "--rendered-output-names", "rgb")
    run_command("ns-render", "dataset", "--load-config", sources.built_in, *options)
    assert len(list((tmp_path / "test/rgb").glob("*.jpg"))) == 2


def test_ns_export_writes_the_scene(run_command, sources, tmp_path):
    few = ("--num-points", 200, "--num-rays-per-batch", 128, "--normal-method", "open3d", "--remove-outliers", "False")
    run_command("ns-export", "pointcloud", "--load-config", sources.built_in, "--output-dir", tmp_path, *few)
    assert list(tmp_path.glob("*.ply"))
