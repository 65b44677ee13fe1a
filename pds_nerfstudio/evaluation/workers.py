"""Tasks in processes of their own: one that fails, or whose process dies, stops no other."""

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from pds_nerfstudio.children import end_with_parent
from pds_nerfstudio.errors import first_line
from pds_nerfstudio.files import appended


def each(task: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[tuple[Any, Any]]:
    """`task` of every item, as they finish: its result, or in one line why there is none; `item.folder` gets the log.

    Each thread has one process, so that it is known whose item killed it; a process that dies (for want of memory,
    say) is replaced.
    """
    processes: dict[int, ProcessPoolExecutor] = {}

    def in_its_process(item: Any) -> Any:
        thread = threading.get_ident()
        if thread not in processes:
            processes[thread] = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent)
        try:
            return processes[thread].submit(guarded, task, item).result()
        except BrokenProcessPool:
            processes.pop(thread).shutdown()
            return "its process died, perhaps for want of memory"

    threads = ThreadPoolExecutor(workers)
    futures = {threads.submit(in_its_process, item): item for item in items}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        threads.shutdown(cancel_futures=True)
        for process in processes.values():
            process.shutdown()


def guarded(task: Callable[[Any], Any], item: Any) -> Any:
    """A task's result, or in one line why there is none; the whole story is in the item's log."""
    try:
        return task(item)
    except (Exception, SystemExit) as error:
        with appended(item.folder / "log.txt") as log:
            traceback.print_exc(file=log)
        return first_line(error.__cause__ if isinstance(error, SystemExit) and error.__cause__ is not None else error)
