"""LPIPS where its AlexNet may not be on this machine: loaded when it is first asked for, and NaN where it cannot be."""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pds_nerfstudio.text import in_rich

LPIPS_MODULE = "torchmetrics.image.lpip"
LPIPS_CLASS = "LearnedPerceptualImagePatchSimilarity"
DOWNLOAD_TIMEOUT_S = 20.0


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
                f"({in_rich(error)})."
            )
        finally:
            socket.setdefaulttimeout(timeout)
