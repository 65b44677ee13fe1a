"""Ctrl-C, SIGTERM and a closed terminal end a training in order: the step is finished, a checkpoint written, the exit
code says so."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process

from pds_nerfstudio.pipelines import distributed

AT_ONCE = (signal.SIGINT, signal.SIGTERM)
"""Those of which a second one does not wait for the step."""
HANG_UP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
"""What a closed terminal sends, where systems have it."""
SIGNALS = (*AT_ONCE, *HANG_UP)
USUAL = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
FAILED = 128
"""What a shell adds to the number of the signal that ended a command."""
BEFORE_ANY_STEP = "Stopped before the first step: the same command begins again."


def heard(number: int) -> bool:
    """Whether this signal is for this process: `nohup` lets it ignore that its terminal is closed."""
    return number not in HANG_UP or signal.getsignal(number) != signal.SIG_IGN


@contextmanager
def interruptions(asked: Callable[[int], None]) -> Iterator[None]:
    """Within this block these signals call `asked` with their number, between two instructions of the main thread.

    Of several processes that train together each is left to end as it did: they would stop at different steps.
    """
    if threading.current_thread() is not threading.main_thread() or distributed.count() > 1:
        yield
        return
    before = {number: signal.signal(number, lambda number, _: asked(number)) for number in filter(heard, SIGNALS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, USUAL[number] if handler is _stop else handler)


def stop_before_the_first_step() -> None:
    """From here until `interruptions`, these signals end the process in one sentence: there is nothing to save yet."""
    if threading.current_thread() is threading.main_thread():
        for number in filter(heard, SIGNALS):
            signal.signal(number, _stop)


def _stop(number: int, _: object) -> None:
    if parent_process() is None:  # what it has begun ends without a word
        with suppress(OSError):
            print(BEFORE_ANY_STEP, file=sys.__stderr__)
    raise SystemExit(FAILED + number)
