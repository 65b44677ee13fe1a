"""A capture with lens distortion, reconstructed once for all files of this folder, whichever processes run them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import in_process
import pytest
from filelock import FileLock
from PIL import Image

GAUSSIANS = 3000
HEADLESS = (
    *("--vis", "tensorboard", "--viewer.quit-on-train-completion", "True", "--logging.local-writer.enable", "False"),
)
SMALL_NERF = (
    *("--pipeline.model.num-levels", 8, "--pipeline.model.max-res", 512, "--pipeline.model.log2-hashmap-size", 14),
    *("--pipeline.model.num-proposal-samples-per-ray", 32, 24, "--pipeline.model.num-nerf-samples-per-ray", 16),
    *("--pipeline.datamanager.train-num-rays-per-batch", 512),
)
ON_CPU = ("--machine.device-type", "cpu", "--pipeline.model.implementation", "torch")


@dataclass(frozen=True)
class Sources:
    """`config.yml` of finished reconstructions; never written to."""

    splats: Path
    nerf: Path
    built_in: Path
    """nerfstudio's own nerfacto, with its pose optimisation and appearance embedding."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder of all processes of this test run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "commands"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def train(run_command, shared) -> Callable[..., Path]:
    """`train(method, steps, …)`: run `ns-train`, once, and return the run's `config.yml`. Unless it is asked for as a
    command, it runs in this process, which has imported everything."""

    def run(method: str, steps: int, *args: object, experiment: str, command: bool = False) -> Path:
        names = ("--output-dir", shared / "runs", "--experiment-name", experiment, "--timestamp", "once")
        run_folder = shared / "runs" / experiment / method / "once"
        with FileLock(shared / f"{experiment}.{method}.lock"):
            if not (done := run_folder / "done").exists():
                line = (method, *names, *HEADLESS, "--max-num-iterations", steps, *args)
                run_command("ns-train", *line) if command else in_process.ns_train(*line)
                done.touch()
        return run_folder / "config.yml"

    return run


@pytest.fixture(scope="session")
def photographs(distorted, shared) -> Path:
    """A copy of the capture, with photographs of a quarter of the size beside it, as ns-process-data writes them."""
    copy = shared / "capture"
    with FileLock(shared / "capture.lock"):
        if not copy.exists():
            partial = shared / "partial"
            (partial / "images_4").mkdir(parents=True)
            shutil.copyfile(distorted / "transforms.json", partial / "transforms.json")
            shutil.copytree(distorted / "images", partial / "images", copy_function=shutil.copyfile)
            for path in (distorted / "images").iterdir():
                with Image.open(path) as photograph:
                    quarter = photograph.resize((photograph.width // 4, photograph.height // 4))
                    quarter.save(partial / "images_4" / path.name)
            partial.rename(copy)
    return copy


@pytest.fixture(scope="session")
def held_out(photographs) -> tuple:
    """Arguments of the data parser that leave two of the photographs out."""
    count = len(list((photographs / "images").iterdir()))
    return "nerfstudio-data", "--data", photographs, "--eval-mode", "interval", "--eval-interval", count // 2


@pytest.fixture(scope="session")
def sources(train, held_out) -> Sources:
    """The capture as splats from random points and, at a quarter of the size, as NeRFs."""
    quarter = (*held_out, "--downscale-factor", 4)
    random = ("--pipeline.model.num-random", GAUSSIANS)
    makers = {
        "splats": lambda: train("source-splatfacto", 60, *random, *held_out, experiment="source"),
        "nerf": lambda: train("source-nerfacto", 60, *SMALL_NERF, *quarter, experiment="source"),
        "built_in": lambda: train("nerfacto", 30, *ON_CPU, *SMALL_NERF, *quarter, experiment="source", command=True),
    }
    # Of two processes that want them at once, each begins at its own end and none waits for the other to make all.
    backwards = os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0"
    made = {name: makers[name]() for name in (reversed(makers) if backwards else makers)}
    return Sources(**made)
