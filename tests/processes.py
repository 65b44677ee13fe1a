"""Other processes: started, watched, and killed."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A process of `subprocess.Popen(command, **options)`, killed at the end of the block."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_files(process: subprocess.Popen, folder: Path, pattern: str, seconds: float = 600) -> list[Path]:
    """The files below `folder` with such names, as soon as `process` has written one."""
    end = time.monotonic() + seconds
    while True:
        with suppress(FileNotFoundError):  # a folder in which a file is being written goes while it is looked into
            if found := list(folder.rglob(pattern)):
                return found
        assert process.poll() is None, "it ended before it wrote any"
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for(happens: Callable[[], bool], seconds: float = 120) -> None:
    """Raise AssertionError where it does not happen within so many seconds."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def state_of(process: int) -> str:
    """The letter by which /proc names what a process does; "" where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(process: int) -> bool:
    """Whether it runs; a process that nobody has collected yet does not."""
    return state_of(process) not in ("", "Z")
