"""What today's torch and nerfstudio need to work together.

Each entry is one function that names the upstream issue it answers and says when it can go. `apply` runs them all; it
is called at the import of `pds_nerfstudio.methods`, which every `ns-*` command imports, so runs of the built-in
nerfacto and splatfacto profit too. Nothing here is specific to editing.
"""

import functools
import importlib
import inspect
import math
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LPIPS_MODULE = "torchmetrics.image.lpip"
LPIPS_CLASS = "LearnedPerceptualImagePatchSimilarity"
DOWNLOAD_TIMEOUT_S = 20.0


def apply() -> None:
    """Put every entry below in place. Safe to call again, and cheap: it imports nothing that nerfstudio has not."""
    allow_numpy_scalars_in_checkpoints()
    build_models_without_lpips_weights()
    use_packaged_ffmpeg()
    list_external_methods_quickly()


def allow_numpy_scalars_in_checkpoints() -> None:
    """Let `torch.load(weights_only=True)` read nerfstudio's own checkpoints.

    The schedulers' state holds learning rates as numpy scalars, which torch >= 2.6 refuses by default, so that
    ns-viewer, -render, -export, -eval and resuming all fail (nerfstudio #3683, #3702, #3711). Numbers run no code: they
    are named as safe and safe loading stays on. Can go when nerfstudio saves plain floats *and* no older checkpoint
    matters.
    """
    multiarray: Any = importlib.import_module(
        "numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray"
    )
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool")]
    torch.serialization.add_safe_globals([np.dtype, multiarray.scalar, *dtypes])
    # A checkpoint written under the other major version of numpy spells the same function differently.
    other = "numpy.core.multiarray.scalar" if hasattr(np, "_core") else "numpy._core.multiarray.scalar"
    try:
        torch.serialization.add_safe_globals([(multiarray.scalar, other)])  # pyright: ignore[reportArgumentType]
        torch.serialization.get_safe_globals()
    except (AttributeError, TypeError):  # torch < 2.5 knows no aliases
        pass


def build_models_without_lpips_weights() -> None:
    """Build nerfstudio models on a machine that has no AlexNet weights and no network.

    Eight models construct LPIPS in `populate_modules`, which downloads AlexNet: without network even `ns-train
    nerfacto` and `ns-export` end in a URL error. Where the file is not on disk, a stand-in takes its place that tries
    to load the metric when it is first asked for. Can go when nerfstudio builds its metrics on first use.
    """
    from nerfstudio.models.base_model import Model

    build = Model.__init__
    if getattr(build, "_lpips_deferred", False):
        return

    @functools.wraps(build)
    def __init__(self, *args, **kwargs):
        if lpips_weights_on_disk():
            build(self, *args, **kwargs)
        else:
            with deferred_lpips():
                build(self, *args, **kwargs)

    setattr(__init__, "_lpips_deferred", True)  # noqa: B010
    Model.__init__ = __init__


def use_packaged_ffmpeg() -> None:
    """Let `ns-render` write videos where no ffmpeg is on the path but the one that comes with imageio-ffmpeg is there.

    `ns-render` asks for a system-wide ffmpeg and exits without it, although it only calls it through mediapy, which can
    be told any path. Can go when nerfstudio leaves the search to mediapy.
    """
    from nerfstudio.utils import install_checks

    check = install_checks.check_ffmpeg_installed
    if getattr(check, "_packaged", False):
        return

    @functools.wraps(check)
    def check_ffmpeg_installed():
        if shutil.which("ffmpeg") is None:
            try:
                import imageio_ffmpeg
                import mediapy

                mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
                return
            except (ImportError, RuntimeError):  # the package is missing, or was built without a binary
                pass
        check()

    setattr(check_ffmpeg_installed, "_packaged", True)  # noqa: B010
    install_checks.check_ffmpeg_installed = check_ffmpeg_installed


def list_external_methods_quickly() -> None:
    """Let every `ns-*` command start seconds sooner.

    For each of the methods that it can offer to install, nerfstudio asks `inspect.stack()` for a caller's name, which
    looks through all modules for every frame of it: 4.5 s of processor time, or 12 where more is imported. The names
    alone cost next to nothing. Can go when nerfstudio asks for them alone.
    """
    module: Any = importlib.import_module("nerfstudio.configs.external_methods")
    if module.inspect is inspect:
        module.inspect = SimpleNamespace(**{**vars(inspect), "stack": callers})


def callers() -> list[SimpleNamespace]:
    """The functions that are running, from the one that asks outwards, by name: what is read of `inspect.stack()`."""
    frames = traceback.walk_stack(sys._getframe(1))
    return [SimpleNamespace(frame=frame, lineno=line, function=frame.f_code.co_name) for frame, line in frames]


def lpips_weights_on_disk() -> bool:
    """Whether torchvision's AlexNet, which torchmetrics' LPIPS is built on, lies in torch's download folder."""
    from pathlib import Path

    return any((Path(torch.hub.get_dir()) / "checkpoints").glob("alexnet-owt-*.pth"))


@contextmanager
def deferred_lpips() -> Iterator[None]:
    """Within this block, a torchmetrics LPIPS that a nerfstudio model builds is a `DeferredLpips`."""

    module = importlib.import_module(LPIPS_MODULE)
    original = getattr(module, LPIPS_CLASS)
    setattr(module, LPIPS_CLASS, DeferredLpips)
    try:
        yield
    finally:
        setattr(module, LPIPS_CLASS, original)


class DeferredLpips(nn.Module):
    """LPIPS that is loaded when it is first asked for, and NaN where it cannot be.

    Its weights are in no state dict: a checkpoint need not carry AlexNet.
    """

    failed: str | None = None
    """Why the metric could not be loaded in this process; None while it has not been tried or is there."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings
        self._loaded: list[nn.Module] = []  # in a list, so that it does not become a submodule

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """LPIPS of two image batches `[B 3 H W]`, or NaN (with one message per process) where AlexNet is missing."""
        if not self._loaded and DeferredLpips.failed is None:
            self._load()
        if not self._loaded:
            return torch.tensor(math.nan)
        return self._loaded[0].to(prediction.device)(prediction, target)

    def _load(self) -> None:
        import socket

        from nerfstudio.utils.rich_utils import CONSOLE

        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
        try:
            self._loaded.append(getattr(importlib.import_module(LPIPS_MODULE), LPIPS_CLASS)(**self.settings).eval())
        except (OSError, RuntimeError) as error:
            DeferredLpips.failed = str(error)
            CONSOLE.print(
                "[yellow]LPIPS is left out: its AlexNet weights are not on this machine and could not be fetched "
                f"({error})."
            )
        finally:
            socket.setdefaulttimeout(timeout)
