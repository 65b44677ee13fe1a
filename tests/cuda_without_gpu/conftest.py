"""`ns-train` and `pds` on the pretended GPUs of `devices.py`."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gsplat
import in_process
import pytest
import torch
from pipelines.conftest import HEADLESS, PROMPTS, free_port  # noqa: F401 -- a fixture

from .devices import PretendedCuda
from .noticed import HOST, Event

TOYBOX = ("--pipeline.prior", "toybox", "--pipeline.recipe", "none", "--pipeline.resolution", 32)


@dataclass(frozen=True)
class Ran:
    """A training on pretended GPUs."""

    folder: Path
    """Of the run."""
    events: list[Event]

    def of_kind(self, kind: str, step: int | None = None) -> list[str]:
        """What happened of one kind, in all or at one step: "what at place"."""
        chosen = [event for event in self.events if event.kind == kind and step in (None, event.step)]
        return sorted(f"{event.what} at {event.place}" for event in chosen)


class Machine:
    """One CPU that passes for two GPUs."""

    def __init__(self, folder: Path):
        self.cuda = PretendedCuda(2)
        self._folder = folder

    @contextmanager
    def on(self) -> Iterator[list[Event]]:
        """Within this block there are GPUs; what they would notice is added to the list."""
        from accelerate.state import AcceleratorState

        self.cuda.events, self.cuda.step = [], None
        with pytest.MonkeyPatch.context() as patched:
            _replace_kernels(self.cuda, patched)
            _count_steps(self.cuda, patched)
            AcceleratorState._reset_state(reset_partial_state=True)
            try:
                with self.cuda:
                    yield self.cuda.events
            finally:
                AcceleratorState._reset_state(reset_partial_state=True)

    def train(self, method: str, base: Path, *arguments: object, vis: tuple[object, ...] = HEADLESS) -> Ran:
        """What `ns-train method --load-dir base …` does."""
        import tyro
        from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
        from nerfstudio.scripts import train

        line = (method, "--output-dir", self._folder, "--load-dir", base, "--machine.device-type", "cuda", *vis)
        words = [str(word) for word in (*line, *arguments)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["ns-train", *words])
            config = tyro.cli(AnnotatedBaseConfigUnion, args=words)
            with self.on() as events, in_process.one_picture_of_each():
                train.main(config)
        return Ran(config.get_base_dir(), events)

    def edit(self, method: str, base: Path, *arguments: object, **settings: Any) -> Ran:
        """`train` with prompts and the toybox prior."""
        return self.train(method, base, *PROMPTS, *TOYBOX, *arguments, **settings)


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Machine:
    """One for all tests of a file: what one of them keeps in memory keeps its device."""
    return Machine(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def steering(monkeypatch) -> Callable[[dict[int, list]], None]:
    """`steering({step: [("setting", value), function, …]})`: a viewer's requests, or calls with the trainer."""
    from pds_nerfstudio.pipelines.session import Session

    apply = Session.apply

    def install(requests: dict[int, list]) -> None:
        def asking(self, step):
            for request in requests.get(step, ()):
                request(self._trainer) if callable(request) else self.request(*request)
            apply(self, step)

        monkeypatch.setattr(Session, "apply", asking)

    return install


def _count_steps(cuda: PretendedCuda, patched: pytest.MonkeyPatch) -> None:
    """A step begins with its iteration and ends where the next begins, or a checkpoint is written."""
    from pds_nerfstudio.pipelines.trainer import EditTrainer

    iteration, save = EditTrainer.train_iteration, EditTrainer.save_checkpoint

    def counted(self, step):
        cuda.step = step
        return iteration(self, step)

    def saved(self, step):
        cuda.step = None
        save(self, step)

    patched.setattr(EditTrainer, "train_iteration", counted)
    patched.setattr(EditTrainer, "save_checkpoint", saved)


def _replace_kernels(cuda: PretendedCuda, patched: pytest.MonkeyPatch) -> None:
    """Let our rasteriser for CPUs stand for gsplat's kernels, which take float32 on one device."""
    from pds_nerfstudio.scenes import composite, kernels, rasterize

    signature = inspect.signature(gsplat.rasterization)
    backward = composite._Composite.backward

    def kernel(**given):
        signature.bind(**given)
        device = cuda.device_of(given["means"])
        for name, value in given.items():
            if isinstance(value, torch.Tensor) and (cuda.device_of(value) != device or value.dtype != torch.float32):
                cuda.note("mismatch", f"gsplat's {name} is {value.dtype} on {cuda.device_of(value)}, not on {device}")
        with cuda.running_kernel(device):
            return rasterize.rasterization(**given)

    def kernel_backward(ctx, grad):
        device = cuda.device_of(grad)
        if device == HOST:
            return backward(ctx, grad)
        with cuda.running_kernel(device):
            return backward(ctx, grad)

    patched.setattr(rasterize, "gsplat_rasterization", kernel)
    patched.setattr(composite._Composite, "backward", staticmethod(kernel_backward))
    patched.setattr(kernels, "splats_obstacle", lambda _: None)
