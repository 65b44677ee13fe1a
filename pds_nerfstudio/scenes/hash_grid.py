"""Hash tables of a nerfacto scene (Müller et al. 2022, sec. 3): where each lies in its parameter, and which of its
entries a region of space reads.

    p = s x + o, x in (0, 1)^3        cell i = floor(p), its 8 vertices i + {0, 1}^3, entry = index(vertex) mod size

Tables are found from the modules, never by a parameter's name. nerfstudio's torch implementation gives every level a
table of its own, with s = N_l and o = 0; tiny-cuda-nn puts all levels (behind a network's weights, where there is a
network) into one flat vector, with s = N_l - 1 and o = 1/2, and stores levels small enough without hashing.

A region reads the vertices of all cells that it overlaps. For a box that is decided exactly, also where space is
contracted (see `overlaps`). Of any other region only points can be asked: the corners of each cell, at coarse levels
of its parts, so that cells whose only overlap holds none of `FINEST` corners along each axis can be missed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.mlp import MLPWithHashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.models.nerfacto import NerfactoModel
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hull import Region

PRIMES = (1, 2654435761, 805459861)
"""Müller et al. 2022, eq. 4; of tiny-cuda-nn and nerfstudio alike."""
FINEST = 128
"""Points along each axis of the unit cube that are asked at least whether they lie in a region."""
BLOCK = 16
"""Cells along each side of the blocks that are looked at together."""
POINTS = 2**21
"""Points that are asked at once."""


@runtime_checkable
class AxisAligned(Protocol):
    """A region that is a box along the scene's axes."""

    corners: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Level:
    """One level of a table."""

    scale: float
    """Cells per unit length of the unit cube."""
    shift: float
    """Where the unit cube begins, in cells."""
    first: int
    """Its first entry, counted from the beginning of the table."""
    size: int
    """Entries."""
    stored: int | None = None
    """Vertices along each axis where they are stored one by one; None where they are hashed."""

    @property
    def cells(self) -> int:
        """Cells along each axis that the unit cube reaches into."""
        return math.ceil(self.scale + self.shift)

    def entries(self, vertices: Int[Tensor, "... 3"]) -> Int[Tensor, "..."]:
        """Which entry of the level each vertex reads."""
        x, y, z = vertices.unbind(-1)
        if self.stored is not None:
            return (x + self.stored * (y + self.stored * z)) % self.size
        return ((x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) % self.size


@dataclass(frozen=True)
class HashTable:
    """A table: a part of one parameter, `features` values for each entry."""

    parameter: Tensor
    begin: int
    """Where it begins in the flattened parameter."""
    features: int
    levels: tuple[Level, ...]
    field: torch.nn.Module
    """The density field that reads it."""

    def mask(self, read: Sequence[Bool[Tensor, " _"]]) -> Bool[Tensor, "..."]:
        """Which values of the parameter are those of the entries `read`, one mask per level."""
        mask = torch.zeros(self.parameter.numel(), dtype=torch.bool, device=self.parameter.device)
        values = torch.cat(list(read)).repeat_interleave(self.features)
        mask[self.begin : self.begin + len(values)] = values
        return mask.view(self.parameter.shape)


def hash_tables(model: NerfactoModel) -> list[HashTable]:
    """The tables of the field and of every proposal network.

    Raises:
        UserError: one of them has no table that is known here.
    """
    tables = []
    for field in (model.field, *model.proposal_networks):
        found = [table for module in field.modules() for table in _tables_in(module, field)]
        if not found:
            raise UserError(
                f"No hash table was found in the scene's {type(field).__name__}, hence no part of it can be edited "
                "alone: leave out --pipeline.box, --pipeline.masks and --pipeline.change relevant."
            )
        tables += found
    return tables


def _tables_in(module: torch.nn.Module, field: torch.nn.Module) -> Iterator[HashTable]:
    if isinstance(module, HashEncoding):
        if module.tcnn_encoding is not None:
            yield _native_table(module, module.tcnn_encoding, field)
        else:
            size = module.hash_table_size
            levels = [Level(float(scale), 0.0, size * i, size) for i, scale in enumerate(module.scalings.tolist())]
            yield HashTable(module.hash_table, 0, module.features_per_level, tuple(levels), field)
    elif isinstance(module, MLPWithHashEncoding) and hasattr(module.model, "native_tcnn_module"):
        yield _native_table(module, module.model, field)


def _native_table(settings: HashEncoding | MLPWithHashEncoding, native: torch.nn.Module, field) -> HashTable:
    """The table at the end of tiny-cuda-nn's flat vector `native.params`; its layout is that of encodings/grid.h."""
    growth, levels, first = np.float32(np.log2(np.float32(settings.growth_factor))), [], 0
    for i in range(settings.num_levels):
        scale = float(np.exp2(np.float32(i) * growth) * np.float32(settings.min_res) - np.float32(1))
        side = math.ceil(scale) + 1
        size = min(8 * math.ceil(side**3 / 8), settings.hash_table_size)
        levels.append(Level(float(scale), 0.5, first, size, None if size < side**3 else side))
        first += size
    parameter = native.params
    assert isinstance(parameter, Tensor)
    begin = parameter.numel() - first * settings.features_per_level
    if begin < 0 or (begin == 0) != isinstance(settings, HashEncoding):
        raise UserError(
            f"tiny-cuda-nn's vector of {parameter.numel()} values does not hold the {first} entries of "
            f"{settings.features_per_level} that its settings ask for: reconstruct the scene with "
            "--pipeline.model.implementation torch to edit a part of it alone."
        )
    return HashTable(parameter, begin, settings.features_per_level, tuple(levels), field)


@torch.no_grad()
def entries_read(model: NerfactoModel, region: Region) -> dict[str, Bool[Tensor, "..."]]:
    """By the parameter's name, which of its values belong to entries of hash tables that points of the region read.

    Raises:
        UserError: the scene has a field without a table that is known here.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spaces: dict[str, Space] = {}
    masks: dict[str, Tensor] = {}
    for table in hash_tables(model):
        space = Space(table.field, table.parameter.device)
        space = spaces.setdefault(space.key, space)  # what is asked of a region once holds for all fields
        name = names[id(table.parameter)]
        mask = table.mask([_read(level, space, region) for level in table.levels])
        masks[name] = masks[name] | mask if name in masks else mask
    return masks


class Space:
    """The unit cube in which a field looks positions up, and the scene's coordinates in it."""

    def __init__(self, field: torch.nn.Module, device: torch.device):
        self.device = device
        self.distortion = getattr(field, "spatial_distortion", None)
        if not isinstance(self.distortion, SceneContraction | None):
            raise UserError(f"{type(self.distortion).__name__} is no contraction that a part can be edited in alone.")
        aabb = field.aabb
        assert isinstance(aabb, Tensor)
        bounds = aabb if self.distortion is None else aabb.new_tensor([[-2.0] * 3, [2.0] * 3])
        self.low, self.high = bounds.double().to(device)
        self._near: Tensor | None = None

    @property
    def key(self) -> str:
        """The same for equal spaces."""
        order = None if self.distortion is None else self.distortion.order
        return f"{order} {self.low.tolist()} {self.high.tolist()} {self.distortion is None}"

    @property
    def boxes_are_exact(self) -> bool:
        """Whether `overlaps` knows this space."""
        return self.distortion is None or self.distortion.order == math.inf

    def scene(self, unit: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        """The points of the scene that lie at these places of the unit cube; infinite where none does."""
        points = self.low + (self.high - self.low) * unit
        if self.distortion is None:
            return points
        size = torch.linalg.norm(points, ord=self.distortion.order, dim=-1, keepdim=True)
        outside = torch.where(size < 2, points / size / (2 - size), torch.inf)
        return torch.where(size < 1, points, outside)

    def near(self, region: Region) -> Bool[Tensor, "_ _ _"]:
        """Which parts of the unit cube, `FINEST` along each axis, have a corner in the region or touch one that has."""
        if self._near is None:
            steps = torch.arange(FINEST + 1, device=self.device) / FINEST
            slabs = steps.split(max(POINTS // (FINEST + 1) ** 2, 1))
            inside = torch.cat([self.contains(region, torch.cartesian_prod(x, steps, steps)) for x in slabs])
            inside = inside.view([FINEST + 1] * 3).float()
            self._near = F.max_pool3d(inside[None, None], 4, 1, padding=1)[0, 0].bool()
        return self._near

    def contains(self, region: Region, unit: Float[Tensor, "... 3"]) -> Bool[Tensor, "..."]:
        """Whether the region holds each of these places of the unit cube, its faces excluded: nothing is read there."""
        flat = unit.reshape(-1, 3)
        open_cube = ((flat > 0) & (flat < 1)).all(-1)
        points = self.scene(flat).float()
        return (region.contains(points) & open_cube & points.isfinite().all(-1)).view(unit.shape[:-1])


def _read(level: Level, space: Space, region: Region) -> Bool[Tensor, " entries"]:
    """Which entries of a level the region reads."""
    read = torch.zeros(level.size, dtype=torch.bool, device=space.device)
    exact = isinstance(region, AxisAligned) and space.boxes_are_exact
    parts = 1 if exact else math.ceil(FINEST / level.scale)
    side = max(BLOCK // parts, 1)

    def unit(places: Tensor) -> Tensor:
        return ((places.double() - level.shift) / level.scale).clamp(0, 1)

    def reaches(first: Tensor, side: int) -> Tensor:
        low, high = unit(first), unit(first + side)
        if exact:
            assert isinstance(region, AxisAligned)
            return overlaps(space, region.corners, low, high)
        return _any_part(space.near(region), low, high)

    def cells_of(first: Tensor) -> Tensor:
        if exact:
            return reaches((first[:, None] + inner).view(-1, 3), 1).view(-1, side, side, side)
        inside = space.contains(region, unit(first[:, None] + parted)).view(-1, *[side * parts + 1] * 3)
        return F.max_pool3d(inside[:, None].float(), parts + 1, parts)[:, 0].bool()

    inner, corners = _grid(side, space.device), _grid(side + 1, space.device)
    parted = _grid(side * parts + 1, space.device) / parts
    at_once, most = 1, max(POINTS // (side * parts + 1) ** 3, 1)  # a small table is full after a few blocks
    for blocks in _blocks_that(reaches, level.cells, side, space.device):
        while len(blocks):
            some, blocks = blocks[:at_once], blocks[at_once:]
            at_once = min(2 * at_once, most)
            # A vertex is read where any of the cells that share it is.
            vertices = F.max_pool3d(cells_of(some)[:, None].float(), 2, 1, padding=1)[:, 0].bool()
            places = (some[:, None] + corners).view(*vertices.shape, 3)[vertices]
            read[level.entries(places)] = True
            if bool(read.all()):  # a region much larger than the table reads all of it
                return read
    return read


def _blocks_that(
    reaches: Callable[[Tensor, int], Tensor], cells: int, side: int, device: torch.device
) -> Iterator[Int[Tensor, "blocks 3"]]:
    """First cells of the blocks of `side` cells each that pass a test, found through ever smaller blocks."""

    def within(blocks: Tensor, size: int) -> Iterator[Tensor]:
        kept = blocks[reaches(blocks, size)]
        if size == side:
            yield kept
            return
        for some in kept.split(64):
            yield from within((some[:, None] + _grid(8, device) * (size // 8)).view(-1, 3), size // 8)

    size = side
    while size < cells:
        size *= 8
    yield from within(torch.zeros(1, 3, dtype=torch.long, device=device), size)


def _grid(side: int, device: torch.device) -> Int[Tensor, "cells 3"]:
    steps = torch.arange(side, device=device)
    return torch.cartesian_prod(steps, steps, steps)


def _any_part(parts: Bool[Tensor, "side side side"], low: Tensor, high: Tensor) -> Bool[Tensor, " boxes"]:
    """Whether any part of the unit cube between each low and high corner is set, by a summed-volume table."""
    sums = F.pad(parts.long().cumsum(0).cumsum(1).cumsum(2), (1, 0, 1, 0, 1, 0))
    side = len(parts)
    first = (low * side).floor().long().clamp(0, side - 1)
    last = (high * side).ceil().long().clamp(1, side)
    count = torch.zeros(len(low), dtype=torch.long, device=low.device)
    for corner in _grid(2, low.device):
        x, y, z = torch.where(corner.bool(), last, first).unbind(-1)
        count += sums[x, y, z] * (1 if int(corner.sum()) % 2 else -1)
    return count > 0


def overlaps(
    space: Space, box: Sequence[float], low: Float[Tensor, "boxes 3"], high: Float[Tensor, "boxes 3"]
) -> Bool[Tensor, " boxes"]:
    """Whether each box between corners in the unit cube shares more than a face with `box`, which is in the scene.

    Where space is contracted by the maximum norm, y = (2 - 1/m) x/m with m = |x|_∞ > 1, the part of a box of y with
    |y_k| largest is x_k = ±m, x_j = y_j f(m) with f(m) = m²/(2m - 1), which grows: every face of either box is a
    bound on m, and both have a point in common exactly where the lower bounds lie below the upper ones.
    """
    low, high = (space.low + (space.high - space.low) * corner for corner in (low, high))
    below, above = (torch.tensor(corner, dtype=low.dtype, device=low.device) for corner in (box[:3], box[3:]))
    if space.distortion is None:
        return (torch.maximum(low, below) < torch.minimum(high, above)).all(-1)
    one = torch.ones((), dtype=low.dtype, device=low.device)
    shared = (torch.maximum(low, below.maximum(-one)) < torch.minimum(high, above.minimum(one))).all(-1)
    open_question = ~shared & ((low < -1) | (high > 1)).any(-1)
    low, high = low[open_question], high[open_question]
    contracted = torch.zeros(len(low), dtype=torch.bool, device=low.device)
    for axis in range(3):
        for sign in (1, -1):
            # Of the mirrored boxes, the part with y_k > 1.
            a, b, c, d = (low, high, below, above) if sign > 0 else (-high, -low, -above, -below)
            least = (1 / (2 - a[:, axis])).maximum(c[axis]).maximum(one)
            most = (1 / (2 - b[:, axis]).clamp(min=0)).minimum(d[axis])
            for other in {0, 1, 2} - {axis}:
                for begin, end in ((a[:, other], d[other]), (-b[:, other], -c[other])):  # begin f(m) < end
                    bound = _where_f_is(end / begin)
                    least = least.maximum(1 / (2 - begin)).maximum(-end)
                    least = torch.where((begin < 0) & (end < 0), least.maximum(bound), least)
                    most = torch.where(begin > 0, most.minimum(bound), most)
                    most = torch.where((begin == 0) & (end <= 0), -torch.inf, most)
            contracted |= least < most
    shared[open_question] = contracted
    return shared


def _where_f_is(value: Tensor) -> Tensor:
    """The m ≥ 1 where m²/(2m − 1) has this value; 1 for values below, which it has nowhere."""
    value = value.nan_to_num(0).clamp(1, 1e12)
    return value + (value * value - value).sqrt()
