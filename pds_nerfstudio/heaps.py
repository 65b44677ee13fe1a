"""The C library's heaps: what threads that come and go would otherwise leave in pieces there.

Every page that opens in the viewer brings a thread, for which glibc keeps a heap of its own. What such a thread frees
stays with its heap, so that an edit whose pages come and go grows by about a megabyte with each. And what viser held
of a page, its last pictures too, refers to itself: Python finds that only when it looks, seldom in so large a process.
"""

import ctypes
import gc
from contextlib import suppress

ARENAS, ARENA_MAX = 2, -8
"""How many heaps all threads share, and the number by which mallopt(3) knows this setting (M_ARENA_MAX)."""


def share_heaps() -> None:
    """Keep glibc from making a heap for every thread; to be called before the threads begin. A no-op without glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(ARENA_MAX, ARENAS)


def return_free_memory() -> None:
    """Collect what nothing refers to any more, and give back to the system what lies free between pieces in use.

    Takes some tenths of a second.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
