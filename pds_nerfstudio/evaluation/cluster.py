"""Tasks on a Ray cluster, head and workers on one machine or many: one GPU a task, or a CPU where there are no GPUs.

    ray start --head --port 6379               on one machine
    ray start --address HEAD:6379              on every other
    pds bench … --cluster HEAD:6379            on any of them

Every machine has this package in one version, and the same folders at the same places (a shared disk). Ray is the
extra `cluster` of this package, and is imported only here.
"""

import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.evaluation.workers import guarded
from pds_nerfstudio.files import appended

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.cells import Each

LOCAL, AUTO = "local", "auto"
"""In place of an address: a cluster of this machine for this command alone, and the one that `ray start` began here."""
TRIES = 3
"""How often a task may lose its process or its machine."""
AGAIN = "Its process or machine was lost: begun again."
"""In the log of a task."""
PATIENCE = 1.0
"""Seconds that a cluster has to answer."""


def require_cluster(address: str) -> None:
    """Refuse what cannot be a cluster, without importing Ray.

    Raises:
        UserError: Ray is not installed, `address` is none, or nothing answers there.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--cluster needs Ray, which is not installed: pip install '.[cluster]' in this package's checkout."
        )
    if address in (LOCAL, AUTO):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UserError(f"--cluster {address} is no address: give HOST:PORT of the head, {AUTO} or {LOCAL}.")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"No Ray cluster answers at --cluster {address}: start its head by `ray start --head --port {port}`."
        ) from error


@contextmanager
def cluster(address: str) -> "Iterator[Each]":
    """Within this block, what runs tasks on a cluster as `workers.each` runs them here.

    Raises:
        UserError: there is no cluster, it is of another version of Ray or Python, or it has nothing to compute with.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own reports nothing to anybody
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except ValueError:  # of a cluster that is there already nothing can be said
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"--cluster {address} cannot be joined ({first_line(error)}): start it with the Ray and the Python of this "
            "environment, and run this on one of its machines."
        ) from error
    try:
        there = ray.cluster_resources()
        what = "GPU" if there.get("GPU") else "CPU"
        if there.get(what, 0) < 1:
            raise UserError(f"--cluster {address} has neither GPUs nor CPUs: add machines with `ray start`.")
        run = ray.remote(num_cpus=1, num_gpus=int(what == "GPU"), max_retries=0)(in_folder)
        yield lambda task, items: _each(run, task, items)
    finally:
        ray.shutdown()


def in_folder(folder: Path, task: Callable[[Any], Any], item: Any) -> Any:
    """`guarded`, from the folder where the command is run: paths may be relative to it."""
    with suppress(OSError):
        os.chdir(folder)
    return guarded(task, item)


def _each(run: Any, task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Ray would try a task without end whose process runs out of memory, so it is tried again from here."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    folder, tries = Path.cwd(), dict.fromkeys(range(len(items)), 1)
    waiting = {run.remote(folder, task, item): i for i, item in enumerate(items)}
    try:
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            i = waiting.pop(ready)
            try:
                outcome = ray.get(ready)
            except RayTaskError as error:  # it could not even begin: this package is not on that machine, say
                outcome = first_line(error.cause if isinstance(error.cause, BaseException) else error)
            except RayError:
                if tries[i] < TRIES:
                    tries[i] += 1
                    with appended(items[i].folder / "log.txt") as log:
                        log.write(AGAIN + "\n")
                    waiting[run.remote(folder, task, items[i])] = i
                    continue
                outcome = f"its process or machine was lost {TRIES} times, perhaps for want of memory"
            yield items[i], outcome
    finally:
        for left in waiting:
            ray.cancel(left, force=True)
