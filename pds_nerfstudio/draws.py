"""Draws that depend on a seed and a place (a step, a batch, a view) alone, so that a resumed run repeats them."""

import torch

SPREAD = 1_000_003
"""A prime: seeds lie so far apart that their places do not meet."""


def generator_at(seed: int, place: int) -> torch.Generator:
    """The generator of one place, on the CPU."""
    return torch.Generator().manual_seed(seed * SPREAD + place)
