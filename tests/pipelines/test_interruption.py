"""Ctrl-C, SIGTERM or a closed terminal: the step is finished, a checkpoint written, and the edit can go on."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer
from processes import started, wait_for_files

from pds_nerfstudio.pipelines.interruption import interruptions
from pds_nerfstudio.pipelines.scene_trainer import SceneTrainer
from pds_nerfstudio.scenes.source import find_run

from .conftest import HEADLESS, PROMPTS
from .test_edit import TOYBOX

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_an_edit_with_a_checkpoint_and_the_line_that_resumes_it(
    ns_train, toy_splats, tmp_path, number, code
):
    command = [str(Path(sys.executable).parent / "ns-train"), "pds-edit-splat", *HEADLESS]
    edit = ["--load-dir", str(toy_splats.parent), *PROMPTS, *TOYBOX, "--max-num-iterations", "100000"]
    with started(
        [*command, *edit, "--output-dir", str(tmp_path / "stopped"), "--steps-per-save", "5"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # `nohup pytest` would have it ignored
    ) as process:
        wait_for_files(process, tmp_path / "stopped", "step-*.ckpt")
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output[-3000:]
    assert "Traceback" not in output
    said = re.search(r"Stopped after (\d+) steps\.\s+To go on:\s+(ns-train .+)", output)
    assert said is not None, output[-3000:]
    (run,) = (path.parent for path in (tmp_path / "stopped").rglob("config.yml"))
    assert find_run(run).step == int(said[1]) - 1
    method, *flags = shlex.split(said[2], comments=True)[1:]
    resumed = ns_train(method, *flags, "--max-num-iterations", int(said[1]) + 2)
    assert find_run(resumed.get_base_dir()).step == int(said[1]) + 1


def test_a_second_signal_stops_at_once(toy_splats, ns_train, monkeypatch, tmp_path):
    from pds_nerfstudio.pipelines.trainer import EditTrainer

    step_of = EditTrainer.train_iteration

    def interrupting(self, step: int):
        result = step_of(self, step)
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(EditTrainer, "train_iteration", interrupting)
    with pytest.raises(SystemExit) as ended:
        ns_train(
            *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX),
            *("--max-num-iterations", 20, "--steps-per-save", 5),
        )
    assert ended.value.code == 130
    (run,) = (path.parent for path in (tmp_path / "outputs").rglob("config.yml"))
    assert find_run(run).step == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_ends_in_one_sentence(ns_train, toy_splats, monkeypatch, capfd, number, code):
    from pds_nerfstudio.pipelines.interruption import SIGNALS, stop_before_the_first_step
    from pds_nerfstudio.pipelines.trainer import EditTrainer

    before = {known: signal.getsignal(known) for known in SIGNALS}
    monkeypatch.setattr(EditTrainer, "_before_training", lambda _: os.kill(os.getpid(), number))
    stop_before_the_first_step()  # as the method table does in a process that is ns-train
    try:
        with pytest.raises(SystemExit) as ended:
            ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX)
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
    assert ended.value.code == code
    assert "Stopped before the first step: the same command begins again." in capfd.readouterr().err


@pytest.mark.parametrize("answer", [OSError("Input/output error"), SystemExit(1)], ids=["terminal", "pipe"])
def test_a_closed_terminal_or_pipe_costs_no_checkpoint(monkeypatch, tmp_path, answer):
    """rich answers a pipe that nobody reads with SystemExit, also within a signal's handler."""

    def gone(*_, **__):
        raise answer

    trainer, saved = SceneTrainer.__new__(SceneTrainer), []
    trainer.base_dir, trainer._last_step, trainer.config = tmp_path, 7, SimpleNamespace(method_name="source-splatfacto")
    monkeypatch.setattr(trainer, "save_checkpoint", saved.append)
    monkeypatch.setattr(CONSOLE, "quiet", False)
    for say in ("log", "print"):
        monkeypatch.setattr(CONSOLE, say, gone)
    with interruptions(trainer._interrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert trainer.stop_training
    with pytest.raises(SystemExit) as ended:
        trainer._after_train()
    assert ended.value.code == 143
    assert saved == [7]


def test_a_terminal_that_closes_twice_ends_a_training_in_order_and_nohup_goes_on():
    trainer, before = SceneTrainer.__new__(SceneTrainer), signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with interruptions(trainer._interrupt):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not trainer.stop_training
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with interruptions(trainer._interrupt):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        assert trainer._signal == signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_the_viewer_is_built_is_not_forgotten():
    trainer = SceneTrainer.__new__(SceneTrainer)
    trainer._interrupt(signal.SIGTERM)
    trainer.stop_training = False  # as nerfstudio does once the viewer is there
    assert trainer.stop_training


def test_threads_that_render_for_pages_end_with_the_training():
    class Page(RenderStateMachine):
        def __init__(self):
            threading.Thread.__init__(self, daemon=True)
            self.running, self.interrupt_render_flag = True, False

        def run(self):
            while self.running:
                time.sleep(0.01)

    trainer, viewer, page, gone = SceneTrainer.__new__(SceneTrainer), Viewer.__new__(Viewer), Page(), Page()
    gone.start()  # its page has left
    viewer.ready, viewer.render_statemachines, trainer.viewer_state = True, {0: page}, viewer
    page.start()
    trainer._let_pages_go()
    assert not page.is_alive()
    assert not gone.is_alive()
    assert not viewer.ready, "whoever comes now waits"
