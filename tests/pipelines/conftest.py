"""nerfstudio's own command line, parsed and run in this process."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import in_process
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
def ns_train(tmp_path) -> Callable:
    """`ns_train(method, …)`: what `ns-train method …` does without a viewer; returns the configuration as it ran."""

    def run(method: str, *args: object):
        return in_process.ns_train(method, "--output-dir", tmp_path / "outputs", *HEADLESS, *args)

    return run


@pytest.fixture
def copied_prior(tmp_path) -> Path:
    """A copy of the toybox prior that a test may damage."""
    from pds_nerfstudio.priors.check import TOYBOX

    return Path(shutil.copytree(TOYBOX, tmp_path / "prior"))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium; without it the test is skipped."""
    from .pages import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def running(ns_train, toy_splats, free_port, monkeypatch) -> Iterator[Callable]:
    """`running(method, …)`: an edit that goes on until the test ends it, paused before its first step."""
    from viser import SceneApi

    from pds_nerfstudio.pipelines.trainer import EditTrainer

    from .pages import RunningEdit, wait
    from .test_edit import TOYBOX

    started: list[RunningEdit] = []
    setup = EditTrainer.setup

    def caught(self, *arguments, **options):
        setup(self, *arguments, **options)
        started[-1].trainer = self

    send = SceneApi.set_background_image

    def watched(self, image, *arguments, **options):
        started[-1].sent = image
        send(self, image, *arguments, **options)

    monkeypatch.setattr(EditTrainer, "setup", caught)
    monkeypatch.setattr(SceneApi, "set_background_image", watched)
    shared: list[bool] = []
    monkeypatch.setattr("pds_nerfstudio.pipelines.scene_trainer.share_heaps", lambda: shared.append(True))

    def run(method: str, *arguments: object):
        options = (*TOYBOX, "--max-num-iterations", 100_000, "--start-paused", "True", *arguments)
        edit = RunningEdit(ns_train, (method, "--load-dir", toy_splats.parent, *PROMPTS, *options), free_port())
        started.append(edit)
        edit.start()
        wait(lambda: edit.trainer is not None or edit.error is not None)
        assert edit.error is None, edit.error
        assert shared, "an edit whose pages each have a heap of their own grows with every page"
        return edit

    yield run
    for edit in started:
        if edit.trainer is not None:
            edit.trainer.shutdown()
        edit.join(120)
        assert not edit.is_alive()
        assert edit.error is None, edit.error
