"""Draws that depend on a seed and a place (a step, a batch, a view) alone, so that a resumed run repeats them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

APART = -1
"""The place of what no step, batch or view draws."""
SPREAD = 1_000_003
"""A prime: seeds lie so far apart that their places do not meet."""


def generator_at(seed: int, place: int) -> torch.Generator:
    """The generator of one place, on the CPU."""
    return torch.Generator().manual_seed(seed * SPREAD + place)


def seed_apart(seed: int) -> int:
    """A seed that depends on another one alone and that nobody trains with: a scene that is drawn from it is not the
    one that a training with that other seed began with."""
    return int(torch.randint(2**62, (), generator=generator_at(seed, APART))) + 2**62


@contextmanager
def own_draws(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Within this block torch's own generators of the CPU and of `device` may be drawn from, and begin at `seed` where
    there is one; they then go on as if nothing had been drawn. Those of other devices are not touched."""
    gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if gpu else []):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if gpu:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
        yield
