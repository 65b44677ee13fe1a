"""What threads that come and go leave in the C library's heaps."""

import os
import subprocess
import sys

import pytest
from nerfstudio.viewer.viewer import Viewer

from pds_nerfstudio import heaps
from pds_nerfstudio.pipelines.display import SECONDS_BETWEEN_TRIMS, Display

HEAPS_OF_THREADS = """
import ctypes, threading
from pds_nerfstudio.heaps import return_free_memory, share_heaps

if {shared}:
    share_heaps()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
barrier = threading.Barrier(8)

def work():
    barrier.wait()
    piece = libc.malloc(5000)
    barrier.wait()
    libc.free(piece)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
return_free_memory()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NO GLIBC, SHARED HEAPS ARE NOT TESTED")
def test_threads_share_heaps():
    glibc = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if name not in glibc}

    def heaps_of(shared: bool) -> int:
        command = [sys.executable, "-c", HEAPS_OF_THREADS.format(shared=shared)]
        ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return ran.stdout.count("<heap nr")

    assert heaps_of(shared=False) > heaps.ARENAS
    assert 0 < heaps_of(shared=True) <= heaps.ARENAS


def test_memory_is_given_back_some_time_after_a_page_has_left(monkeypatch):
    now, trims = [0.0], []
    monkeypatch.setattr("pds_nerfstudio.pipelines.display.time.monotonic", lambda: now[0])
    monkeypatch.setattr("pds_nerfstudio.pipelines.display.return_free_memory", lambda: trims.append(now[0]))
    display = Display.__new__(Display)
    viewer = Viewer.__new__(Viewer)
    display._viewer, display._pages, display._trimmed_at = viewer, set(), -float("inf")

    def after_a_step(seconds: float, *pages: int) -> None:
        now[0] = seconds
        viewer.render_statemachines = dict.fromkeys(pages)  # pyright: ignore[reportAttributeAccessIssue]
        display._clear_after_pages()

    after_a_step(1, 0, 1)
    assert not trims, "nobody has left"
    after_a_step(2, 1)
    after_a_step(3)
    assert trims == [2], "not with every page"
    after_a_step(2 + SECONDS_BETWEEN_TRIMS + 1)
    after_a_step(2 + 3 * SECONDS_BETWEEN_TRIMS)
    assert trims == [2, 2 + SECONDS_BETWEEN_TRIMS + 1], "the last page's too, and then no more"
