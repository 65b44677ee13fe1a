"""Whether a process is still writing a run: a lock on the run's folder, held while that process trains.

The system itself lets go of it when the process ends, however it ends. Where a disk or a system has no such locks, no
run is said to be running.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 1.0
"""Seconds to wait for the lock while others look whether it is held."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within this block this process writes the run in `folder`, which it may have to make first."""
    handle = None
    with suppress(ImportError, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        _lock(handle)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int) -> None:
    """Take the lock for this process alone. `is_running` shares it while it looks, and then lets go.

    Raises:
        BlockingIOError: another process holds it beyond `PATIENCE`.
    """
    import fcntl

    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def is_running(folder: Path) -> bool:
    """Whether a process, here or on another machine that shares the disk, writes the run in `folder`."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
