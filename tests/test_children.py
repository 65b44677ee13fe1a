"""A killed parent takes its children along."""

import os
import signal
import sys
from functools import partial
from subprocess import PIPE

import pytest
from processes import alive, started, state_of, wait_for

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
    with started([sys.executable, "-c", code], stdout=PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
    wait_for(lambda: not alive(child), seconds=10)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no /proc")
def test_a_stopped_parent_stops_its_child_until_it_goes_on():
    code = f"import sys\nCHILD = {CHILD!r}\n{PARENTS['a command']}"
    with started([sys.executable, "-c", code], stdout=PIPE, text=True, preexec_fn=os.setpgrp) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        for number, states in ((signal.SIGTSTP, ["T"]), (signal.SIGCONT, ["S", "R"])):
            os.kill(parent.pid, number)
            for process in (parent.pid, child):
                wait_for(partial(is_in, process, states), seconds=10)
    wait_for(lambda: not alive(child), seconds=10)


def is_in(process: int, states: list[str]) -> bool:
    return state_of(process) in states


def test_a_childs_exit_code_is_its_own():
    from pds_nerfstudio.children import Ended, run_child

    assert run_child([sys.executable, "-c", "raise SystemExit(7)"]) == Ended(7)


@pytest.mark.parametrize("to_all", [True, False], ids=["as from the terminal", "to the parent alone"])
def test_a_signal_reaches_a_child_once_and_its_end_is_waited_for(to_all):
    child = (
        "import signal, sys, time\nheard = []\nsignal.signal(signal.SIGINT, lambda *_: heard.append(0))\n"
        "print('ready', flush=True)\nend = time.monotonic() + 60\n"
        "while not heard and time.monotonic() < end: time.sleep(0.05)\n"
        "time.sleep(1)\nsys.exit(100 + len(heard))"
    )
    code = (
        "import sys\nfrom pds_nerfstudio.children import run_child\n"
        f"ended = run_child([sys.executable, '-c', {child!r}])\nprint(ended.code, ended.signal)"
    )
    with started([sys.executable, "-c", code], stdout=PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        (os.killpg if to_all else os.kill)(parent.pid, signal.SIGINT)
        assert parent.stdout.read() == "101 2\n"
