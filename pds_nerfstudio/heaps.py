"""The C library's heaps: what threads that come and go would otherwise leave in pieces there.

Every page that opens in the viewer brings a thread, for which glibc keeps a heap of its own. What such a thread frees
stays with its heap, so that an edit whose pages come and go grows by about a megabyte with each. Without glibc both
functions do nothing.
"""

import ctypes
from contextlib import suppress

ARENAS, ARENA_MAX = 2, -8
"""How many heaps all threads share, and the number by which mallopt(3) knows this setting (M_ARENA_MAX)."""


def share_heaps() -> None:
    """Keep glibc from making a heap for every thread; to be called before the threads begin."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(ARENA_MAX, ARENAS)


def return_free_memory() -> None:
    """Give the pages that lie free between pieces in use back to the system."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
