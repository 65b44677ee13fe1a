"""nerfstudio's own command line, parsed and run in this process."""

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROMPTS = ("--pipeline.src-prompt", "a photo of a red can", "--pipeline.tgt-prompt", "a photo of a red cone")
HEADLESS = ("--vis", "tensorboard", "--viewer.quit-on-train-completion", "True")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """`free_port()`: one on which nobody listens."""

    def find() -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    return find


@pytest.fixture
def ns_train(tmp_path, monkeypatch) -> Callable:
    """`ns_train(method, …)`: what `ns-train method …` does; returns the configuration as it ran."""

    def run(method: str, *args: object):
        import tyro
        from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
        from nerfstudio.scripts import train

        arguments = [method, "--output-dir", str(tmp_path / "outputs"), *HEADLESS, *map(str, args)]
        with monkeypatch.context() as patched:  # an edit asks what the command line named
            patched.setattr(sys, "argv", ["ns-train", *arguments])
            config = tyro.cli(AnnotatedBaseConfigUnion)
            train.main(config)
        return config

    return run


@pytest.fixture
def copied_prior(tmp_path) -> Path:
    """A copy of the toybox prior that a test may damage."""
    from pds_nerfstudio.priors.check import TOYBOX

    return Path(shutil.copytree(TOYBOX, tmp_path / "prior"))
