"""How long a training will take: at least so long before its first step, and at its own pace after twenty of them."""

import time
from datetime import datetime, timedelta

import torch

from pds_nerfstudio.estimates import GIB, METHODS

SETTLED, SETTLING = 20, 5
"""Steps after which the pace is said, and how many of them are not counted: the first ones compile and fill caches."""
WORTH_SAYING = 60
"""Seconds left from which on that is said."""
SIDE = {"cuda": 4096, "cpu": 1024}
"""Rows of the matrices whose product is timed."""


class Pace:
    """Times the first steps of a training."""

    def __init__(self, steps: int):
        self._steps = steps
        self._done = 0
        self._settled_at = 0.0

    def after_step(self, device: torch.device) -> str | None:
        """After `SETTLED` steps, one sentence on what is left; None after any other."""
        self._done += 1
        if self._done == SETTLING:
            self._settled_at = time.monotonic()
        if self._done != SETTLED:
            return None
        seconds = (time.monotonic() - self._settled_at) / (SETTLED - SETTLING)
        left = seconds * (self._steps - self._done)
        if left < WORTH_SAYING:
            return None
        end = datetime.now() + timedelta(seconds=left)
        said = f"At {seconds:.2g} s a step, {in_words(left)} left, until about {end:%H:%M}"
        said += f" on {end:%A}" if end.date() != datetime.now().date() else ""
        if device.type == "cuda":
            said += f"; {torch.cuda.max_memory_allocated(device) / GIB:.1f} GiB of GPU memory taken at most so far"
        return f"{said}."


def is_counted(method: str) -> bool:
    """Whether the work of a step of a method is."""
    return method.removesuffix("-splat") in METHODS


def at_least(steps: int, work: float, device: torch.device, dtype: torch.dtype) -> str:
    """One sentence on how long an edit takes at the least.

    Args:
        steps: that are left.
        work: TFLOP of each.
    """
    rate = product_rate(device, dtype)
    return (
        f"At least {in_words(work * steps / rate)}: {steps:,} steps of {work:.2g} TFLOP, counted, at the "
        f"{rate:.2g} TFLOP/s of a matrix product here. After {SETTLED} steps, by the clock."
    )


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of the product of two large matrices, the best of three; an edit runs at a fraction of it."""
    side = SIDE.get(device.type, SIDE["cpu"])
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(3):
        _wait_for(device)
        start = time.perf_counter()
        torch.matmul(matrix, matrix)
        _wait_for(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start) / 1e12)
    return best


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 90:
        return f"{max(minutes, 1):.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
