"""The unit cube in which a field looks positions up: which boxes of it does a region of the scene reach into?

For a box that is decided exactly, also where space is contracted (see `overlaps`). Any other region can only be asked
for points. It is asked once, at the corners of `PARTS` voxels along each axis and, near its surface, of `FINER` parts
of each, and grown by one part: what it reads is found whole, and little else, unless a piece of it fits between the
coarser corners.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.hull import Region

PARTS = 128
"""Voxels along each axis of the unit cube whose corners a region is asked for."""
FINER = 3
"""Parts along each axis of the voxels near its surface."""
POINTS = 2**20
"""Points that are asked at once."""
BOXES = 2**13
"""Boxes that are decided at once: what each step of it makes of them stays in a processor's cache."""
ROUNDING = 1e-6
"""In voxels: where a face of a box lies on one of a voxel, the voxel behind it is no part of it."""
MARGIN = 1e-6
"""Relative to a box: faces nearer to each other than this are decided by the exact answer alone."""

Reaches = Callable[[Float[Tensor, "boxes 3"], Float[Tensor, "boxes 3"]], Bool[Tensor, " boxes"]]
"""Whether a region shares more than a face with the box between each low and high corner in the unit cube."""


@runtime_checkable
class AxisAligned(Protocol):
    """A region that is a box along the scene's axes."""

    corners: tuple[float, float, float, float, float, float]


class UnitCube:
    """The unit cube of one field, and the scene's coordinates in it.

    Raises UserError for a contraction of space that is not nerfstudio's.
    """

    def __init__(self, field: torch.nn.Module, device: torch.device):
        self.device = device
        self.distortion = getattr(field, "spatial_distortion", None)
        if not isinstance(self.distortion, SceneContraction | None):
            raise UserError(
                f"The scene contracts space by {type(self.distortion).__name__}, in which no part can be found to edit "
                "it alone: edit the whole scene."
            )
        aabb = field.aabb
        assert isinstance(aabb, Tensor)
        bounds = aabb if self.distortion is None else aabb.new_tensor([[-2.0] * 3, [2.0] * 3])
        self.low, self.high = bounds.double().to(device)

    @property
    def key(self) -> str:
        """The same for cubes that the scene's coordinates are the same in."""
        contraction = None if self.distortion is None else ("contracted", self.distortion.order)
        return f"{contraction} {self.low.tolist()} {self.high.tolist()}"

    def reach_of(self, region: Region) -> Reaches:
        """Into which boxes of the cube a region reaches: exactly for a box, else all of them and few others."""
        if isinstance(region, AxisAligned) and (self.distortion is None or self.distortion.order == math.inf):
            corners = region.corners
            return lambda low, high: overlaps(self, corners, low, high)
        sums = _sums(self.voxels(region))
        return lambda low, high: _any_within(sums, low, high)

    def scene(self, unit: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """The points of the scene that lie at these places of the cube; infinite where none does."""
        return self.uncontracted(self.low + (self.high - self.low) * unit)

    def uncontracted(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """The points of the scene that are contracted to these; infinite where none is."""
        if self.distortion is None:
            return points
        if self.distortion.order == math.inf:
            size = points.abs().amax(-1, keepdim=True)  # linalg.norm takes ten times as long
        else:
            size = torch.linalg.norm(points, ord=self.distortion.order, dim=-1, keepdim=True)
        outside = torch.where(size < 2, points / size / (2 - size), torch.inf)
        return torch.where(size < 1, points, outside)

    def contains(self, region: Region, unit: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether the region holds each of these places of the cube, its faces excluded: nothing is read there."""
        held = []
        for flat in unit.reshape(-1, 3).split(POINTS):
            points = self.scene(flat).float()
            open_cube = ((flat > 0) & (flat < 1)).all(-1) & points.isfinite().all(-1)
            held.append(region.contains(torch.where(open_cube[:, None], points, 0.0)) & open_cube)
        return torch.cat(held).view(unit.shape[:-1])

    def voxels(self, region: Region) -> Bool[Tensor, "side side side"]:
        """Which of PARTS · FINER voxels along each axis the region reaches into or nearly so."""
        steps = torch.arange(PARTS + 1, device=self.device).double() / PARTS
        held = self.contains(region, torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1))
        whole, touched = _of_corners(held, torch.logical_and), _of_corners(held, torch.logical_or)
        surface = (_grown(touched) & ~whole).nonzero()
        unit = (surface[:, None] + grid(FINER + 1, self.device) / FINER) / PARTS
        held = self.contains(region, unit).view(-1, *[FINER + 1] * 3)
        voxels = whole[:, None, :, None, :, None].repeat(1, FINER, 1, FINER, 1, FINER)
        x, y, z = surface.unbind(-1)
        voxels[x, :, y, :, z] = _of_corners(held, torch.logical_or)
        return _grown(voxels.view([PARTS * FINER] * 3))


def grid(side: int, device: torch.device) -> Int[Tensor, "places 3"]:
    """All integer places from 0 below `side` along each axis, the last axis first."""
    steps = torch.arange(side, device=device)
    return torch.cartesian_prod(steps, steps, steps)


def _of_corners(corners: Bool[Tensor, "*batch x y z"], either: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """For each voxel what its eight corners have in common, axis by axis."""
    for axis in (-3, -2, -1):
        count = corners.shape[axis] - 1
        corners = either(corners.narrow(axis, 0, count), corners.narrow(axis, 1, count))
    return corners


def _grown(voxels: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """The voxels and all their neighbours, axis by axis."""
    for axis in range(3):
        count, grown = voxels.shape[axis] - 1, voxels.clone()
        grown.narrow(axis, 1, count).logical_or_(voxels.narrow(axis, 0, count))
        grown.narrow(axis, 0, count).logical_or_(voxels.narrow(axis, 1, count))
        voxels = grown
    return voxels


def _sums(voxels: Bool[Tensor, "side side side"]) -> Int[Tensor, "side+1 side+1 side+1"]:
    """Summed-volume table: how many voxels are set below each corner."""
    sums = torch.zeros([len(voxels) + 1] * 3, dtype=torch.int32, device=voxels.device)
    sums[1:, 1:, 1:] = voxels
    for axis in range(3):
        sums.cumsum_(axis)
    return sums


def _any_within(
    sums: Int[Tensor, "corners corners corners"], low: Float[Tensor, "boxes 3"], high: Float[Tensor, "boxes 3"]
) -> Bool[Tensor, " boxes"]:
    """Whether any voxel between each low and high corner in the unit cube is set, cut voxels included."""
    side = len(sums) - 1
    strides = torch.tensor(sums.stride(), device=sums.device)
    first = (low * side + ROUNDING).floor().clamp(0, side - 1).long() * strides
    last = (high * side - ROUNDING).ceil().clamp(1, side).long() * strides
    flat, count = sums.view(-1), torch.zeros(len(low), dtype=torch.int32, device=sums.device)
    for x, sign_x in ((first, -1), (last, 1)):
        for y, sign_y in ((first, -1), (last, 1)):
            for z, sign_z in ((first, -1), (last, 1)):
                count += sign_x * sign_y * sign_z * flat[x[:, 0] + y[:, 1] + z[:, 2]]
    return count > 0


def overlaps(
    cube: UnitCube, box: Sequence[float], low: Float[Tensor, "boxes 3"], high: Float[Tensor, "boxes 3"]
) -> Bool[Tensor, " boxes"]:
    """Whether each box between corners in the unit cube shares more than a face with `box`, which is in the scene.

    Where space is contracted by the maximum norm, y = (2 - 1/m) x/m with m = |x|_∞ > 1, the part of a box of y with
    |y_k| largest is x_k = ±m, x_j = y_j f(m) with f(m) = m²/(2m - 1), which grows: every face of either box is a
    bound on m, and both have a point in common exactly where the lower bounds lie below the upper ones.
    """
    low, high = (cube.low + (cube.high - cube.low) * corner for corner in (low, high))
    below, above = (torch.tensor(corner, dtype=low.dtype, device=low.device) for corner in (box[:3], box[3:]))
    if cube.distortion is None:
        return (torch.maximum(low, below) < torch.minimum(high, above)).all(-1)
    one = torch.ones((), dtype=low.dtype, device=low.device)
    shared = (torch.maximum(low, below.maximum(-one)) < torch.minimum(high, above.minimum(one))).all(-1)
    open_question = ~shared & ((low < -1) | (high > 1)).any(-1)
    open_question = open_question.nonzero()[:, 0]
    middle = cube.uncontracted((low[open_question] + high[open_question]) / 2)
    held = ((middle > below) & (middle < above)).all(-1)  # nearly all of them, and cheaper to ask
    shared[open_question[held]] = True
    open_question = open_question[~held]
    open_question = open_question[_may_overlap(low[open_question], high[open_question], below, above)]
    for some in open_question.split(BOXES):
        shared[some] = _overlap_contracted(low[some], high[some], below, above)
    return shared


def _may_overlap(
    low: Float[Tensor, "boxes 3"], high: Float[Tensor, "boxes 3"], below: Float[Tensor, "3"], above: Float[Tensor, "3"]
) -> Bool[Tensor, " boxes"]:
    """False for nearly all boxes of y that lie beside the scene's box, and for no other.

    With y/(|y|(2 - |y|)) = x beyond the inner cube, a box of x around all that a box of y holds is found by its least
    and its largest |y|_∞.
    """
    nearest = low.maximum(-high).amax(-1, keepdim=True).clamp(1, 2 - MARGIN)
    farthest = high.maximum(-low).amax(-1, keepdim=True).clamp(1, 2)
    least, most = 1 / (nearest * (2 - nearest)), 1 / (farthest * (2 - farthest))
    lowest = low * torch.where(low < 0, most, least)
    highest = high * torch.where(high > 0, most, least)
    margin = MARGIN * (1 + torch.maximum(below.abs(), above.abs()))
    return ((lowest < above + margin) & (highest > below - margin)).all(-1)


def _overlap_contracted(
    low: Float[Tensor, "boxes 3"], high: Float[Tensor, "boxes 3"], below: Float[Tensor, "3"], above: Float[Tensor, "3"]
) -> Bool[Tensor, " boxes"]:
    """Whether a part beyond the inner cube of each box of y, as `overlaps` says it, meets the scene's box.

    All six parts at once, for a GPU is asked once for each line here: the boxes' axes are turned and mirrored such
    that the part's is the first one and y_k > 1.
    """
    (a, b), (c, d) = _turned(low, high), _turned(below[None], above[None])
    least = (1 / (2 - a[0])).maximum(c[0]).clamp(min=1)
    most = (1 / (2 - b[0]).clamp(min=0)).minimum(d[0])
    begin, end = torch.cat([a[1:], -b[1:]]), torch.cat([d[1:], -c[1:]])  # begin f(m) < end
    bound = _where_f_is(end / begin)
    least = least.maximum((1 / (2 - begin)).maximum(-end).amax(0))
    least = least.maximum(torch.where((begin < 0) & (end < 0), bound, -torch.inf).amax(0))
    most = most.minimum(torch.where(begin > 0, bound, torch.inf).amin(0))
    most = torch.where(((begin == 0) & (end <= 0)).any(0), -torch.inf, most)
    return (least < most).flatten(0, 1).any(0)


def _turned(low: Float[Tensor, "boxes 3"], high: Float[Tensor, "boxes 3"]) -> tuple[Tensor, Tensor]:
    """Both corners [3, 2, 3, boxes] of the boxes and of their mirror images, from each axis on: the last axis but one
    says from which."""
    turns = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]], device=low.device)
    low, high = (corner.t()[turns] for corner in (low, high))
    return torch.stack([low, -high], dim=1), torch.stack([high, -low], dim=1)


def _where_f_is(value: Tensor) -> Tensor:
    """The m ≥ 1 where m²/(2m − 1) has this value; 1 for values below, which it has nowhere."""
    value = value.nan_to_num(0).clamp(1, 1e12)
    return value + (value * value - value).sqrt()
