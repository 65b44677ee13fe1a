"""Processes that end when the one that began them is gone, killed perhaps, and nobody waits for them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""
A_STAGE = "PDS_A_STAGE"
"""The environment variable by which a command knows that it is a stage of another, which warns of what is likely a
mistake and says what is next."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM)


def is_a_stage() -> bool:
    """Whether this process is a stage of another command."""
    return A_STAGE in os.environ


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; negative for the signal that killed it."""
    signal: int | None = None
    """What this process was asked to stop with meanwhile."""


def run_child(
    command: Sequence[str], keep_open: Sequence[int] = (), environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a command on this terminal and wait for it, however long it takes to end in order.

    It runs in a session of its own and gets Ctrl-C and SIGTERM from here, each once: both from the terminal and from
    a `kill` of this process alone. With Ctrl-Z it stops, and all that it has begun, until this process goes on. On
    Linux it gets SIGTERM if this process ends before it.

    Args:
        keep_open: file descriptors that it inherits, such as a lock that is to last as long as it does.
        environment: variables that it has beside those of this process.
    """
    asked: list[int] = []
    early: list[int] = []
    children: list[subprocess.Popen] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        if not children:
            early.append(number)
        for child in children:
            with suppress(ProcessLookupError):
                child.send_signal(number)

    def to_group(number: int) -> None:
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)

    def stop(*_: object) -> None:
        to_group(signal.SIGSTOP)  # the system ignores SIGTSTP in a session that has no shell
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # goes on here
        signal.signal(signal.SIGTSTP, stop)
        to_group(signal.SIGCONT)

    main = threading.current_thread() is threading.main_thread()
    handlers = dict.fromkeys(PASSED_ON, pass_on) | ({signal.SIGTSTP: stop} if hasattr(signal, "SIGTSTP") else {})
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()} if main else {}
    try:
        child = subprocess.Popen(
            command,
            pass_fds=tuple(keep_open),
            env=os.environ | (environment or {}),
            start_new_session=True,
            preexec_fn=_dying_with_parent(),
        )
        children.append(child)
        for number in early:
            child.send_signal(number)
        return Ended(child.wait(), asked[0] if asked else None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dying_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()  # loaded here: little may be done after the fork

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def end_with_parent() -> None:
    """Let this process of multiprocessing's end when its parent is gone."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
