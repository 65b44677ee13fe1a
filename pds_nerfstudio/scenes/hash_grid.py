"""Hash tables of a nerfacto scene (Müller et al. 2022, sec. 3): where each lies in its parameter, and which of its
entries a region of space reads.

    p = s x + o, x in (0, 1)^3        cell i = floor(p), its 8 vertices i + {0, 1}^3, entry = index(vertex) mod size

Tables are found from the modules, never by a parameter's name. nerfstudio's torch implementation gives every level a
table of its own, with s = N_l and o = 0; tiny-cuda-nn puts all levels (behind a network's weights, where there is a
network) into one flat vector, with s = N_l - 1 and o = 1/2, and stores levels small enough without hashing.

A region reads a vertex where it overlaps the cells around it, which is decided in the unit cube (see `unit_cube`). The
vertices are found through ever smaller blocks of them, and none are looked for where a region has many more than a
level has entries: the work is bounded by the size of a table, not by the fineness of its levels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.mlp import MLPWithHashEncoding
from nerfstudio.models.nerfacto import NerfactoModel
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hash_encoding import PRIMES
from pds_nerfstudio.scenes.hull import Region
from pds_nerfstudio.scenes.unit_cube import Reaches, UnitCube, grid

BLOCK = 8
"""Vertices along each side of the smallest blocks, and blocks along each side of a larger one."""
FULL = 32
"""A region with so many vertices for each hashed entry reads all of them: by chance it misses one of e^32."""
SHARE = 32
"""Places along each axis of the unit cube by which the vertices of a region are counted roughly."""
BLOCKS_AT_ONCE = 512
"""Of which the vertices are looked at together."""


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
                "alone: leave out --pipeline.box, --pipeline.masks, --pipeline.region and --pipeline.change relevant, "
                "and give pnr-edit --pipeline.perturb everywhere."
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
        levels.append(Level(scale, 0.5, first, size, None if size < side**3 else side))
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
    tests: dict[str, tuple[Reaches, float]] = {}
    masks: dict[str, Tensor] = {}
    for table in hash_tables(model):
        cube = UnitCube(table.field, table.parameter.device)
        if cube.key not in tests:  # what is asked of a region once holds for all fields
            reaches = cube.reach_of(region)
            tests[cube.key] = reaches, _share(reaches, cube.device)
        name = names[id(table.parameter)]
        mask = table.mask([_read(level, *tests[cube.key], cube.device) for level in table.levels])
        masks[name] = masks[name] | mask if name in masks else mask
    return masks


def _share(reaches: Reaches, device: torch.device) -> float:
    """About how much of the unit cube a region takes, 0 to 1."""
    places = (grid(SHARE, device).double() + 0.5) / SHARE
    return float(reaches(places - 1e-6, places + 1e-6).double().mean())


def _read(level: Level, reaches: Reaches, share: float, device: torch.device) -> Bool[Tensor, " entries"]:
    """Which entries of a level are read by a region, given by whether it reaches into boxes of the unit cube and about
    how much of that it takes."""
    if level.stored is None and share * level.scale**3 > FULL * level.size:
        return torch.ones(level.size, dtype=torch.bool, device=device)
    read = torch.zeros(level.size, dtype=torch.bool, device=device)

    def around(first: Tensor, side: int) -> Bool[Tensor, " blocks"]:
        """Whether the region reaches into a cell around any of the vertices in blocks of so many along each side."""
        low, high = first.double() - 1 - level.shift, first.double() + side - level.shift
        return reaches((low / level.scale).clamp(0, 1), (high / level.scale).clamp(0, 1))

    for vertices in _vertices_that(around, level.cells + 1, device):
        read[level.entries(vertices)] = True
        if bool(read.all()):  # a region much larger than the table reads all of it
            break
    return read


def _vertices_that(
    pass_: Callable[[Tensor, int], Tensor], count: int, device: torch.device
) -> Iterator[Int[Tensor, "vertices 3"]]:
    """Those of `count` vertices along each axis that pass a test, found through ever smaller blocks that pass it."""

    def within(blocks: Tensor, side: int) -> Iterator[Tensor]:
        kept = blocks[(blocks < count).all(-1)]
        kept = kept[pass_(kept, side)]
        if side == 1:
            yield kept
            return
        side //= BLOCK
        for some in kept.split(BLOCKS_AT_ONCE if side == 1 else BLOCKS_AT_ONCE // 8):
            yield from within((some[:, None] + grid(BLOCK, device) * side).view(-1, 3), side)

    side = BLOCK
    while side < count:
        side *= BLOCK
    yield from within(torch.zeros(1, 3, dtype=torch.long, device=device), side)
