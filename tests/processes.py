"""What other processes write, waited for."""

import subprocess
import time
from contextlib import suppress
from pathlib import Path


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
