"""Ctrl-C and SIGTERM end a training in order: the step is finished, a checkpoint written, the exit code says so."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pds_nerfstudio.pipelines import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FAILED = 128
"""What a shell adds to the number of the signal that ended a command."""


@contextmanager
def interruptions(asked: Callable[[int], None]) -> Iterator[None]:
    """Within this block these signals call `asked` with their number, between two instructions of the main thread.

    Of several processes that train together each is left to end as it did: they would stop at different steps.
    """
    if threading.current_thread() is not threading.main_thread() or distributed.count() > 1:
        yield
        return
    before = {number: signal.signal(number, lambda number, _: asked(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
