"""Benchmarks whose cells need no processes of their own."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch

from pds_nerfstudio.evaluation import workers
from pds_nerfstudio.evaluation.cells import Each
from pds_nerfstudio.evaluation.workers import guarded


@pytest.fixture(scope="session")
def one_process() -> Callable[[], AbstractContextManager[Each]]:
    """`with one_process() as here:` cells run in this process, one after another, on one thread as workers have it:
    each worker would import nerfstudio anew. `here` stands in for `workers.each`."""

    @contextmanager
    def context() -> Iterator[Each]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(workers, "each", here)
                yield here
        finally:
            torch.set_num_threads(threads)

    return context


def here(task: Any, cells: Iterable[Any], workers: int = 1) -> Iterator[tuple[Any, Any]]:
    """In place of `workers.each`."""
    return ((cell, guarded(task, cell)) for cell in cells)
