"""Every method on a real GPU, and what comes after an edit: `pytest -m gpu`.

`tests/cuda_without_gpu` asks the same of pretended GPUs, on every machine; gsplat's kernels, float16 and memory are
only here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cuda_without_gpu.conftest import Machine
from cuda_without_gpu.edits import (
    FLAGS,
    KINDS,
    STEPS,
    assert_moved,
    check_every_action,
    name_of,
    photographs_are_edited_and_learned_from,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FAMILIES = ("splatfacto", "nerfacto")


class Gpu(Machine):
    """What is asked of pretended GPUs is asked of the real one."""

    def __init__(self, folder: Path):
        self._folder = folder

    @contextmanager
    def on(self) -> Iterator[list]:
        yield []


@pytest.fixture(scope="module")
def gpu(tmp_path_factory) -> Gpu:
    return Gpu(tmp_path_factory.mktemp("gpu"))


@pytest.fixture
def base(request, family) -> Path:
    """A run of the family to edit."""
    return request.getfixturevalue("toy_splats" if family == "splatfacto" else "toy_nerf").parent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_moves_a_scene(gpu, base, family, kind):
    ran = gpu.edit(name_of(kind, family), base, *FLAGS.get(kind, ()), "--max-num-iterations", STEPS.get(kind, 2))
    assert_moved(base, ran)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_within_a_box_is_steered_shown_resumed_refined_and_evaluated(
    gpu, base, family, steering, free_port, tmp_path
):
    check_every_action(gpu, base, family, steering, free_port(), tmp_path)


def test_photographs_are_edited_and_learned_from(gpu, toy_scene, tmp_path):
    photographs_are_edited_and_learned_from(gpu, toy_scene, tmp_path)
