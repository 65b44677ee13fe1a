"""A real capture through the commands that users type: reconstruct it, edit it, and then view, render, evaluate and
export the edited runs where the prior and the diffusion libraries are gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import in_process
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.scenes.source import find_run, fingerprint

pytestmark = pytest.mark.slow

PROMPTS = ("--pipeline.src-prompt", "a photo of a fox head", "--pipeline.tgt-prompt", "a photo of a red panda head")
HASH_GRID = "_model.field.mlp_base.model.0.hash_table"
START_S = 300
"""Longest wait for the viewer, in seconds: nerfstudio needs 15 to start on an idle core."""

UNINSTALLED = '''
"""Python as it is where diffusers and transformers are not installed."""
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder

GONE = ("diffusers", "transformers")
find_spec, find_distributions = PathFinder.find_spec, PathFinder.find_distributions


def spec_of_what_is_left(name, path=None, target=None):
    return None if name.partition(".")[0] in GONE else find_spec(name, path, target)


def distributions_that_are_left(context=DistributionFinder.Context()):
    return iter(()) if context.name in GONE else find_distributions(context)


PathFinder.find_spec = staticmethod(spec_of_what_is_left)
PathFinder.find_distributions = staticmethod(distributions_that_are_left)
'''

READ_ONE = "This command has ended."
READ = f"""
import json, sys
from in_process import console_script
for line in json.loads(sys.argv[1]):
    console_script(*line)
    print({READ_ONE!r}, flush=True)
"""


@dataclass(frozen=True)
class Runs:
    """`config.yml` of finished runs, by family."""

    splats: Path
    nerf: Path


@pytest.fixture(scope="module")
def fingerprints(sources, photographs) -> dict[str, str]:
    """Of all files of the sources and the capture, before any edit."""
    return fingerprint(photographs, *(config.parent for config in vars(sources).values()))


@pytest.fixture(scope="module")
def edited(train, sources, fingerprints, tmp_path_factory) -> Runs:
    """Both sources after a few steps of PDS; the prior of these edits does not exist any more."""
    prior = Path(shutil.copytree(TOYBOX, tmp_path_factory.mktemp("gone") / "prior"))
    edit = (*PROMPTS, "--pipeline.prior", prior, "--pipeline.resolution", 48)

    def run(method: str, steps: int, source: Path) -> Path:
        return train(method, steps, "--load-dir", source.parent / "nerfstudio_models", *edit, experiment="edited")

    runs = Runs(splats=run("pds-edit-splat", 24, sources.splats), nerf=run("pds-edit", 4, sources.nerf))
    shutil.rmtree(prior)
    return runs


@pytest.fixture(scope="module")
def python_path(tmp_path_factory) -> str:
    """PYTHONPATH that hides diffusers and transformers, and shows what tests share."""
    hiding = tmp_path_factory.mktemp("uninstalled")
    (hiding / "sitecustomize.py").write_text(UNINSTALLED)
    shared = Path(in_process.__file__).parent
    return os.pathsep.join(map(str, (hiding, shared, *filter(None, [os.environ.get("PYTHONPATH")]))))


@pytest.fixture
def size(photographs) -> tuple[int, int]:
    """Width and height of the photographs."""
    with Image.open(next((photographs / "images").iterdir())) as photograph:
        return photograph.size


@pytest.fixture(scope="module")
def run_without_prior(run_command, edited, python_path) -> Callable[..., subprocess.CompletedProcess]:
    """`run_command` where the edits' prior is deleted and neither diffusers nor transformers is installed."""

    def run(*args: object, fails: bool = False) -> subprocess.CompletedProcess:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PYTHONPATH", python_path)
            return run_command(*args, fails=fails)

    return run


@pytest.fixture(scope="module")
def read(run_without_prior, edited, tmp_path_factory) -> Path:
    """What nerfstudio's commands make of both runs without the prior, one after another in one process of that kind; a
    line is printed after each."""
    out = tmp_path_factory.mktemp("read")
    splats, nerf = (("--load-config", config) for config in (edited.splats, edited.nerf))
    small = ("--downscale-factor", 3, "--resolution", 32, "--texture-method", "tsdf")
    frames = ("--interpolation-steps", 3, "--downscale-factor", 2)
    lines = (
        ("ns-export", "gaussian-splat", *splats, "--output-dir", out),
        ("ns-export", "tsdf", *nerf, "--output-dir", out, *small),
        ("ns-render", "dataset", *splats, "--output-path", out, "--rendered-output-names", "rgb", "gt-rgb"),
        ("ns-render", "interpolate", *nerf, "--output-path", out / "between.mp4", *frames),
        ("ns-eval", *splats, "--output-path", out / "splats.json"),
        ("ns-eval", *nerf, "--output-path", out / "nerf.json"),
    )
    words = json.dumps([list(map(str, line)) for line in lines])
    done = run_without_prior(sys.executable, "-c", READ, words)
    assert done.stdout.count(READ_ONE) == len(lines), done.stdout[-4000:]
    return out


def weights(config: Path) -> dict[str, torch.Tensor]:
    """The pipeline's state in the last checkpoint of a run."""
    checkpoints = sorted((config.parent / "nerfstudio_models").glob("step-*.ckpt"))
    return torch.load(checkpoints[-1], map_location="cpu", weights_only=True)["pipeline"]


def gaussians(config: Path) -> dict[str, torch.Tensor]:
    prefix = "_model.gauss_params."
    return {name.removeprefix(prefix): value for name, value in weights(config).items() if name.startswith(prefix)}


def test_an_edit_moves_the_gaussians_and_keeps_their_number(sources, edited):
    before, after = gaussians(sources.splats), gaussians(edited.splats)
    assert len({len(value) for value in (*before.values(), *after.values())}) == 1
    for name in ("means", "features_dc", "opacities"):
        assert after[name].isfinite().all()
        moved = (after[name] - before[name]).flatten(1).any(dim=1)
        assert moved.float().mean() > 0.2, f"{name} of {int(moved.sum())} Gaussians moved"


def test_an_edit_moves_the_field_of_a_nerf(sources, edited):
    before, after = weights(sources.nerf), weights(edited.nerf)
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(before[HASH_GRID], after[HASH_GRID])


def test_the_prior_of_these_edits_cannot_be_loaded_any_more(run_without_prior, edited):
    for library in ("diffusers", "transformers"):
        assert (
            f"No module named '{library}'" in run_without_prior("python", "-c", f"import {library}", fails=True).stderr
        )
    for config in (edited.splats, edited.nerf):
        prior = find_run(config).config.pipeline.prior
        assert prior != "toybox"
        assert not Path(prior).exists()


def test_gaussians_are_exported_as_they_are_in_the_checkpoint(read, edited):
    from pds_nerfstudio.scenes.formats.ply_file import read_table

    vertices = read_table(read / "splat.ply").rows
    assert all(np.isfinite(vertices[name]).all() for name in vertices.dtype.names or ())
    parameters = gaussians(edited.splats)
    visible = parameters["opacities"][:, 0] >= -5.5373  # ns-export leaves out what is below 1/255
    assert visible.float().mean() > 0.5
    exported = np.stack([vertices[axis] for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(exported, parameters["means"][visible].numpy())


def test_a_mesh_of_an_edited_nerf_is_exported(read):
    import trimesh

    mesh = trimesh.load_mesh(read / "tsdf_mesh.ply")
    assert len(mesh.faces) > 0
    assert np.isfinite(mesh.vertices).all()


def test_held_out_views_of_edited_splats_are_rendered(read, size):
    for name in ("rgb", "gt-rgb"):
        pictures = sorted((read / "test" / name).iterdir())
        assert len(pictures) == 2
        with Image.open(pictures[0]) as picture:
            assert picture.size == pytest.approx(size, rel=0.06)  # undistorted ones lose their border
            assert np.asarray(picture).std() > 1


def test_a_video_of_an_edited_nerf_is_rendered(read, size):
    import imageio_ffmpeg

    video = imageio_ffmpeg.read_frames(read / "between.mp4")
    assert next(video)["size"] == pytest.approx([side / 8 for side in size], abs=1)
    pictures = [np.frombuffer(picture, np.uint8) for picture in video]
    assert len(pictures) == 3
    assert all(picture.std() > 1 for picture in pictures)


@pytest.mark.parametrize("family", ["splats", "nerf"])
def test_edited_runs_are_evaluated(read, family):
    results = json.loads((read / f"{family}.json").read_text())["results"]
    assert 3 < results["psnr"] < 40
    assert 0 < results["ssim"] <= 1


@pytest.mark.parametrize("family", ["splats", "nerf"])
def test_the_viewer_opens_edited_runs(edited, python_path, family, tmp_path):
    command = [Path(sys.executable).with_name("ns-viewer"), "--load-config", getattr(edited, family)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    with (tmp_path / "log.txt").open("wb") as log:
        viewer = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            page = wait_for_page(viewer)
            with pytest.raises(subprocess.TimeoutExpired):  # the scene is drawn after the server is there
                viewer.wait(timeout=5)
        finally:
            if viewer.poll() is None:
                os.killpg(viewer.pid, signal.SIGTERM)
            viewer.wait(timeout=30)
    text = (tmp_path / "log.txt").read_text()
    assert "<html" in page.lower()
    assert "Traceback" not in text, text[-4000:]


def wait_for_page(server: subprocess.Popen) -> str:
    """What the server answers, once it answers; an empty page if it ends or takes longer than START_S."""
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, psutil.NoSuchProcess):
            for connection in psutil.Process(server.pid).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    with urllib.request.urlopen(f"http://127.0.0.1:{connection.laddr.port}", timeout=30) as answer:
                        return answer.read().decode()
        time.sleep(0.5)
    return ""


def test_a_built_in_nerfacto_is_edited_and_its_poses_and_appearance_stay(train, sources, fingerprints):
    """nerfstudio's own method, with its pose optimisation, appearance embedding and worker processes."""
    edit = ("--load-dir", sources.built_in.parent / "nerfstudio_models", *PROMPTS, "--pipeline.prior", "toybox")
    target = train("pds-edit", 3, *edit, "--pipeline.resolution", 32, experiment="built-in", command=True)

    old, new = weights(sources.built_in), weights(target)
    assert old["_model.camera_optimizer.pose_adjustment"].any()
    for name in ("_model.camera_optimizer.pose_adjustment", "_model.field.embedding_appearance.embedding.weight"):
        assert torch.equal(old[name], new[name])
    assert not torch.equal(old[HASH_GRID], new[HASH_GRID])


def test_all_this_leaves_the_sources_and_the_photographs_as_they_were(edited, sources, photographs, fingerprints):
    assert fingerprint(photographs, *(config.parent for config in vars(sources).values())) == fingerprints
