"""Console commands in copies of one process that has imported what they share: each costs its own work alone.

Importing nerfstudio takes ten seconds or more, and a small command hardly longer. What reads the command line when it
is imported, our methods and with them nerfstudio's, is imported in each copy.
"""

import contextlib
import importlib
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

SHARED = (
    *("nerfstudio.engine.trainer", "nerfstudio.models.splatfacto", "nerfstudio.models.nerfacto"),
    *("nerfstudio.data.datamanagers.full_images_datamanager", "nerfstudio.viewer.viewer", "open3d", "pymeshlab"),
    *("pds_nerfstudio.pipelines.revise", "pds_nerfstudio.pipelines.refine", "pds_nerfstudio.evaluation.renders"),
    *("pds_nerfstudio.priors.load", "diffusers", "transformers", "pds_nerfstudio.cli"),
)
"""Modules to import beforehand: none of them may read sys.argv."""
READS_THE_COMMAND_LINE = "pds_nerfstudio.methods"
PATIENCE = 10
"""Times the processor time that a command may take on the clock; seconds that its own processes are waited for."""


def prepare() -> None:
    """Import what commands share. Call it once, while this process has one thread."""
    for name in SHARED:
        importlib.import_module(name)
    assert READS_THE_COMMAND_LINE not in sys.modules, "each command has to import that itself"


def begin(command: Sequence[str], log: Path, first: Callable[[], object] = lambda: None) -> int:
    """Begin a console script of this environment in a copy of this process.

    Args:
        command: its name and arguments.
        log: what both of its outputs are added to.
        first: done in the copy before anything else; what it raises is in the log.

    Returns:
        the number of the copy, for which somebody has to wait.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    copy = os.fork()
    if copy == 0:
        os._exit(_become(command, log, first))
    return copy


def run(command: Sequence[str], log: Path, longest: float) -> int | None:
    """Run a console script of this environment in a copy of this process, to its end.

    Args:
        command: its name and arguments.
        log: what both of its outputs are added to.
        longest: seconds of processor time after which it is stopped, or `PATIENCE` times as many on the clock: how busy
            the machine is does not matter.

    Returns:
        its exit code, negative for the signal that killed it; None where it was stopped.
    """

    def limited() -> None:
        os.setsid()  # what it begins is stopped with it
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(longest), resource.RLIM_INFINITY))

    copy = begin(command, log, limited)
    end = time.monotonic() + PATIENCE * longest
    while time.monotonic() < end:
        ended, status = os.waitpid(copy, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return None if code == -signal.SIGXCPU else code
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(copy, signal.SIGKILL)
    os.waitpid(copy, 0)
    return None


def _become(command: Sequence[str], log: Path, first: Callable[[], object]) -> int:
    """In the copy: be that command. Returns the exit code that Python would end with."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[:] = [str(Path(sys.executable).parent / command[0]), *command[1:]]
    code = 0
    try:
        first()
        (script,) = entry_points(group="console_scripts", name=command[0])
        code = script.load()() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(Exception):
        for child in multiprocessing.active_children():  # as at a usual exit
            child.join(PATIENCE)
    return code
