"""The torch implementation of nerfstudio's hash grids, with one gather for each corner of a cell and its sum undone by
atomic additions.

    f(x) = Σ_c w_c(x) T[h_c(x)]        c: the eight corners of x's cell; w: trilinear; h: the hash (Müller et al. 2022)

nerfstudio's own indexes its table, `T[h]`. The backward pass of that sorts all indices on a GPU (torch's `index_put_`
with accumulation), fills a gradient as large as all tables for each of the eight corners, and keeps indices and
features of all of them for it. Here only x is kept, corners are found again, and every one is added to one gradient by
`index_add_`. Values and gradients are the same; on a GPU the order of the additions is not, from run to run.

Everything between is laid out level by level, so that neighbours in memory read the same table, and entries are 32-bit
numbers where those reach. On a CPU `embedding_bag` gathers and adds all corners at once, for as many points as its
caches hold.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PRIMES = (1, 2_654_435_761, 805_459_861)
"""Of the spatial hash (Müller et al. 2022, eq. 4), of tiny-cuda-nn and nerfstudio alike."""
AT_ONCE = 1 << 15
"""Points of one `embedding_bag` on a CPU: of 2,048, 8,192, this many and all, the fastest on three sizes of grids."""


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
    return features.reshape(*positions.shape[:-1], len(scalings) * table.shape[-1])  # pyright: ignore[reportAttributeAccessIssue]


class _Lookup(torch.autograd.Function):
    """[points, levels, features] of positions [points, 3]."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, table: Tensor, scalings: Tensor) -> Tensor:
        ctx.save_for_backward(positions, table, scalings)
        if table.device.type == "cpu":
            parts = [_added_up_at_once(part, table, scalings) for part in positions.split(AT_ONCE)]
            return torch.cat(parts, dim=1).transpose(0, 1).contiguous()
        features = table.new_zeros(len(scalings), len(positions), table.shape[-1])
        for entry, (x, y, z), _ in _corners(positions, scalings, len(table)):
            features.addcmul_(_gather(table, entry), (x * y * z)[..., None])
        return features.transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        positions, table, scalings = ctx.saved_tensors
        wants_positions, wants_table, _ = ctx.needs_input_grad
        gradient = gradient.transpose(0, 1).contiguous()
        of_table = torch.zeros_like(table) if wants_table else None
        of_offset = gradient.new_zeros(3, *gradient.shape[:-1])
        for entry, (x, y, z), signs in _corners(positions, scalings, len(table)):
            if of_table is not None:
                weighted = gradient * (x * y * z)[..., None]
                # By 32-bit entries a CPU takes four times as long here.
                of_table.index_add_(0, entry.flatten().long(), weighted.flatten(0, 1))
            if wants_positions:
                along = (gradient * _gather(table, entry)).sum(-1)
                for axis, slope in enumerate((y * z, x * z, x * y)):
                    of_offset[axis].addcmul_(along, slope, value=signs[axis])
        of_positions = (of_offset * scalings[:, None]).sum(1).t().to(positions.dtype) if wants_positions else None
        return of_positions, of_table, None


def _added_up_at_once(
    positions: Float[Tensor, "points 3"], table: Float[Tensor, "entries features"], scalings: Float[Tensor, " levels"]
) -> Float[Tensor, "levels points features"]:
    """The features of a few points."""
    corners = [(entry, (x * y * z).to(table)) for entry, (x, y, z), _ in _corners(positions, scalings, len(table))]
    entries, weights = (torch.stack(of_all, dim=-1).flatten(0, 1) for of_all in zip(*corners, strict=True))
    features = F.embedding_bag(entries, table, mode="sum", per_sample_weights=weights)
    return features.unflatten(0, (len(scalings), len(positions)))


def _gather(table: Tensor, entry: Tensor) -> Tensor:
    return table.index_select(0, entry.flatten()).unflatten(0, entry.shape)


def _corners(
    positions: Float[Tensor, "points 3"], scalings: Float[Tensor, " levels"], entries: int
) -> Iterator[tuple[Int[Tensor, "levels points"], tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]]:
    """Of each corner of a cell: its entry in the table, the factors of its weight, and the signs of their slopes."""
    size = entries // len(scalings)
    begins = size * torch.arange(len(scalings), device=positions.device)[:, None]
    kind = torch.int32 if entries <= torch.iinfo(torch.int32).max else torch.int64
    axes = []
    for axis, prime in enumerate(PRIMES):
        scaled = scalings[:, None] * positions[:, axis]
        low, high = scaled.floor(), scaled.ceil()
        offset = scaled - low
        # Where a level begins has none of a hash's bits: given to one axis alone, it is there after the exclusive or.
        begin = begins if axis == 0 else 0
        of_low, of_high = (((vertex.long() * prime & (size - 1)) + begin).to(kind) for vertex in (low, high))
        axes.append(((of_low, 1 - offset, -1), (of_high, offset, 1)))
    for of_x, x, sign_x in axes[0]:
        for of_y, y, sign_y in axes[1]:
            of_both = of_x ^ of_y
            for of_z, z, sign_z in axes[2]:
                yield of_both ^ of_z, (x, y, z), (sign_x, sign_y, sign_z)
