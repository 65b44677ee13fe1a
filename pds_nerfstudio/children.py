"""Processes that end when the one that began them is gone, killed perhaps, and nobody waits for them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import parent_process

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""


def run_child(command: Sequence[str], keep_open: Sequence[int] = ()) -> int:
    """Run a command on this terminal; its exit code. On Linux it gets SIGTERM if this process ends before it.

    Args:
        keep_open: file descriptors that it inherits, such as a lock that is to last as long as it does.
    """
    return subprocess.run(command, check=False, pass_fds=tuple(keep_open), preexec_fn=_dying_with_parent()).returncode


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
