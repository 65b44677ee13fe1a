"""The torch implementation of nerfstudio's hash grids, with one gather for each corner of a cell and its sum undone by
atomic additions.

    f(x) = Σ_c w_c(x) T[h_c(x)]        c: the eight corners of x's cell; w: trilinear; h: the hash (Müller et al. 2022)

nerfstudio's own indexes its table, `T[h]`. The backward pass of that sorts all indices on a GPU (torch's `index_put_`
with accumulation), fills a gradient as large as all tables for each of the eight corners, and keeps indices and
features of all of them for it. Here only x is kept, corners are found again, and every one is added to one gradient by
`index_add_`. Values and gradients are the same; on a GPU the order of the additions is not, from run to run.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PRIMES = (1, 2_654_435_761, 805_459_861)
"""Of the spatial hash (Müller et al. 2022, eq. 4), of tiny-cuda-nn and nerfstudio alike."""


def hash_encoding(
    positions: Float[Tensor, "*batch 3"],
    table: Float[Tensor, "entries features"],
    scalings: Float[Tensor, " levels"],
) -> Float[Tensor, "*batch level_features"]:
    """Features of positions at all levels, one after the other.

    Args:
        positions: in [0, 1].
        table: of all levels, one after the other, each of the same power of two of entries.
        scalings: cells along a side at each level.
    """
    features = _Lookup.apply(positions.reshape(-1, 3), table, scalings.to(positions.device))
    return features.reshape(*positions.shape[:-1], -1)  # pyright: ignore[reportAttributeAccessIssue]


class _Lookup(torch.autograd.Function):
    """[points, levels, features] of positions [points, 3]."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, table: Tensor, scalings: Tensor) -> Tensor:
        ctx.save_for_backward(positions, table, scalings)
        features = table.new_zeros(len(positions), len(scalings), table.shape[-1])
        for entry, (x, y, z), _ in _corners(positions, scalings, len(table)):
            features.addcmul_(_gather(table, entry), (x * y * z)[..., None])
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        positions, table, scalings = ctx.saved_tensors
        wants_positions, wants_table, _ = ctx.needs_input_grad
        of_table = torch.zeros_like(table) if wants_table else None
        of_offset = gradient.new_zeros(*gradient.shape[:-1], 3)
        for entry, (x, y, z), signs in _corners(positions, scalings, len(table)):
            if of_table is not None:
                weighted = gradient * (x * y * z)[..., None]
                of_table.index_add_(0, entry.flatten(), weighted.flatten(0, 1))
            if wants_positions:
                along = (gradient * _gather(table, entry)).sum(-1)
                for axis, slope in enumerate((y * z, x * z, x * y)):
                    of_offset[..., axis].addcmul_(along, slope, value=signs[axis])
        of_positions = (of_offset * scalings[:, None]).sum(1).to(positions.dtype) if wants_positions else None
        return of_positions, of_table, None


def _gather(table: Tensor, entry: Tensor) -> Tensor:
    return table.index_select(0, entry.flatten()).unflatten(0, entry.shape)


def _corners(
    positions: Tensor, scalings: Tensor, entries: int
) -> Iterator[tuple[Int[Tensor, "points levels"], tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]]:
    """Of each corner of a cell: its entry in the table, the factors of its weight, and the signs of their slopes."""
    size = entries // len(scalings)
    scaled = positions[:, None] * scalings[:, None]
    low, high = scaled.floor(), scaled.ceil()
    offset = scaled - low
    begins = size * torch.arange(len(scalings), device=positions.device)
    axes = [
        ((low[..., i].long() * prime, 1 - offset[..., i], -1), (high[..., i].long() * prime, offset[..., i], 1))
        for i, prime in enumerate(PRIMES)
    ]
    for of_x, x, sign_x in axes[0]:
        for of_y, y, sign_y in axes[1]:
            for of_z, z, sign_z in axes[2]:
                entry = ((of_x ^ of_y ^ of_z) & (size - 1)) + begins
                yield entry, (x, y, z), (sign_x, sign_y, sign_z)
