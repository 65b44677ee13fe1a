"""Counting without a GPU: floating point operations and U-Net calls."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def flops() -> Iterator[FlopCounterMode]:
    """Floating point operations of matrix products and convolutions within this block, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        yield counter


@contextmanager
def unet_rows(unet: torch.nn.Module) -> Iterator[list[int]]:
    """The batch size of every forward pass of the U-Net within this block."""
    rows: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        handle.remove()


@contextmanager
def patched() -> Iterator[Callable]:
    """`patch(holder, name, wrap)` replaces a function by `wrap(function)` until the block ends."""
    with ExitStack() as undo:

        def patch(holder: Any, name: str, wrap: Callable[[Callable], Callable]) -> None:
            old = getattr(holder, name)
            setattr(holder, name, wrap(old))
            undo.callback(setattr, holder, name, old)

        yield patch
