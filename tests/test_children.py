"""A killed parent takes its children along."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENTS = {
    "a command": "from pds_nerfstudio.children import run_child\nrun_child([sys.executable, '-c', CHILD])",
    "a process of multiprocessing": (
        "import multiprocessing as mp\n"
        "from pds_nerfstudio.children import end_with_parent\n"
        "def work():\n    end_with_parent()\n    exec(CHILD)\n"
        "worker = mp.get_context('fork').Process(target=work, daemon=True)\nworker.start()\nworker.join()"
    ),
}
CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell a child of its parent")
@pytest.mark.parametrize("kind", PARENTS)
def test_a_killed_parent_takes_its_children_along(kind):
    code = f"import sys\nCHILD = {CHILD!r}\n{PARENTS[kind]}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert _ends(child, seconds=10)


def _ends(process: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no /proc")
def test_a_stopped_parent_stops_its_child_until_it_goes_on():
    code = f"import sys\nCHILD = {CHILD!r}\n{PARENTS['a command']}"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=os.setpgrp) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            for number, states in ((signal.SIGTSTP, "T"), (signal.SIGCONT, "SR")):
                os.kill(parent.pid, number)
                assert all(_comes_to(process, states) for process in (parent.pid, child))
        finally:
            os.kill(parent.pid, signal.SIGKILL)
    assert _ends(child, seconds=10)


def _comes_to(process: int, states: str) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in states:
            return True
        time.sleep(0.05)
    return False


def test_a_childs_exit_code_is_its_own():
    from pds_nerfstudio.children import Ended, run_child

    assert run_child([sys.executable, "-c", "raise SystemExit(7)"]) == Ended(7)


@pytest.mark.parametrize("to_all", [True, False], ids=["as from the terminal", "to the parent alone"])
def test_a_signal_reaches_a_child_once_and_its_end_is_waited_for(to_all):
    child = (
        "import signal, sys, time\nheard = []\nsignal.signal(signal.SIGINT, lambda *_: heard.append(0))\n"
        "print('ready', flush=True)\nend = time.monotonic() + 2\n"
        "while time.monotonic() < end: time.sleep(0.05)\nsys.exit(100 + len(heard))"
    )
    code = (
        "import sys\nfrom pds_nerfstudio.children import run_child\n"
        f"ended = run_child([sys.executable, '-c', {child!r}])\nprint(ended.code, ended.signal)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        (os.killpg if to_all else os.kill)(parent.pid, signal.SIGINT)
        assert parent.stdout.read() == "101 2\n"
