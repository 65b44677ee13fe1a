"""Benchmarks whose cells need no processes of their own."""

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pds_nerfstudio.evaluation import image_trial, trial, workers
from pds_nerfstudio.evaluation.cells import Each
from pds_nerfstudio.evaluation.workers import guarded
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import ToyEdit


@pytest.fixture(scope="session")
def written_once(tmp_path_factory) -> Callable[..., Path]:
    """`written_once(edit, folder, seed=…)`: what `write_edit` writes, drawn once and then copied."""

    @functools.cache
    def drawn(edit: ToyEdit, seed: int) -> Path:
        folder = tmp_path_factory.mktemp("drawn") / "scene"
        write_edit(edit, folder, seed=seed)
        return folder

    return lambda edit, folder, seed: shutil.copytree(drawn(edit, seed), folder, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def one_process(written_once) -> Callable[[], AbstractContextManager[Each]]:
    """`with one_process() as here:` cells run in this process, one after another, on one thread as workers have it:
    each worker would import nerfstudio anew. `here` stands in for `workers.each`. Scenes are drawn once."""

    @contextmanager
    def context() -> Iterator[Each]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(workers, "each", here)
                for module in (trial, image_trial):
                    patched.setattr(module, "write_edit", written_once)
                yield here
        finally:
            torch.set_num_threads(threads)

    return context


def here(task: Any, cells: Iterable[Any], workers: int = 1) -> Iterator[tuple[Any, Any]]:
    """In place of `workers.each`."""
    return ((cell, guarded(task, cell)) for cell in cells)
