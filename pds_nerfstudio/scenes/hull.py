"""Image masks carried into the scene: how relevant is a point, by the views that see it?

    r(x) = mean of m_v(π_v(x)) over the views v in which x lies in the frame and not behind a surface

A hull of soft masks: of what one view alone calls relevant, the part that most others contradict is carved away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.rendering import Rendering

BEHIND = 0.05
"""A point is hidden where it lies deeper than the surface by more than this share of the surface's depth."""
SEEN_BY = 0.3
"""A point has to be seen by this share of the views, or nothing is known of it."""
INSIDE = 0.5
"""The hull are the points of at least this relevance."""


Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]
"""The least and the greatest corner of a box, in scene units."""


@runtime_checkable
class Region(Protocol):
    """A part of space."""

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point, in scene units, is in it."""
        ...


@dataclass(frozen=True, eq=False)
class Hull:
    """Masks of several views. Lens distortion and pose corrections are left aside: masks are not that sharp."""

    cameras: Sequence[Cameras]
    """One camera each, batch size 1, at the mask's size."""
    masks: Sequence[Float[Tensor, "_ _"]]
    """Relevance in [0, 1], one map per view; views may differ in size."""
    depths: Sequence[Float[Tensor, "_ _"]]
    """Depth of the surfaces in scene units, as `project` counts it, of the same sizes; infinite where there is none."""

    @classmethod
    def from_renderings(
        cls, cameras: Sequence[Cameras], masks: Sequence[Float[Tensor, "_ _"]], renderings: Sequence[Rendering]
    ) -> "Hull":
        """Masks of any size, brought to that of their view's rendering."""
        sizes = [(r.image.shape[-2], r.image.shape[-1]) for r in renderings]
        depths = [torch.where(r.accumulation > 0.5, r.depth, torch.inf)[0, 0] for r in renderings]
        return cls(cameras, [resized(mask, size) for mask, size in zip(masks, sizes, strict=True)], depths)

    @torch.no_grad()
    def relevance(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """r(x) in [0, 1] of points in scene units; 0 where too few views see the point."""
        total, seen = points.new_zeros(len(points)), points.new_zeros(len(points))
        for camera, mask, depth in zip(self.cameras, self.masks, self.depths, strict=True):
            place, distance = project(camera.to(points.device), points)
            across, down = place.unbind(-1)
            height, width = mask.shape
            inside = (distance > 0) & (across >= 0) & (across < width) & (down >= 0) & (down < height)
            column, row = (torch.where(inside, pixels, 0).int() for pixels in (across, down))
            pixel = row * width + column
            surface = depth.to(points.device).flatten().index_select(0, pixel)
            visible = inside & (distance <= surface * (1 + BEHIND))
            total += mask.to(points.device).flatten().index_select(0, pixel) * visible
            seen += visible
        return torch.where(seen >= max(SEEN_BY * len(self.cameras), 1), total / seen.clamp(min=1), 0.0)

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is in the hull."""
        return self.relevance(points) >= INSIDE

    def draw(
        self, count: int, around: Float[Tensor, "_ 3"], generator: torch.Generator, candidates: int = 200_000
    ) -> Float[Tensor, "count 3"]:
        """`count` points of the hull, in and near the box of the points `around`, more where it is more relevant.

        The box is grown on every side by its own largest extent. Where it holds no hull, the points are uniform over
        the box of `around` itself.
        """
        low, high = box_of(around)
        margin = (high - low).max()
        pool = low - margin + (high - low + 2 * margin) * torch.rand(candidates, 3, generator=generator)
        weights = self.relevance(pool)
        inside = weights >= INSIDE
        if not inside.any():
            return low + (high - low) * torch.rand(count, 3, generator=generator)
        chosen = torch.multinomial(weights[inside], count, replacement=True, generator=generator)
        # Half a cell of the candidates' own spacing, so that no two of them coincide.
        cell = ((high - low + 2 * margin).prod() / candidates) ** (1 / 3)
        return pool[inside][chosen] + cell * (torch.rand(count, 3, generator=generator) - 0.5)


def resized(mask: Float[Tensor, "_ _"], size: tuple[int, int]) -> Float[Tensor, "_ _"]:
    """A mask at this height and width in pixels, by bilinear interpolation."""
    return F.interpolate(mask[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def spread_over(
    mask: Bool[Tensor, "height width"], counted: Bool[Tensor, "height width"]
) -> Bool[Tensor, "height width"]:
    """A mask in which pixels that do not count have the value of the nearest one next to them that does, on the CPU.

    Those with no such neighbour are outside.
    """
    found: Any = distance_transform_edt(~counted.cpu().numpy(), return_indices=True)
    away, places = found
    nearest = mask.cpu()[torch.from_numpy(places[0]).long(), torch.from_numpy(places[1]).long()]
    return nearest & torch.from_numpy(away < 2)


def box_of(points: Float[Tensor, "_ 3"], share: float = 0.98) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Lower and upper corner, on the CPU, of what holds this share of the points along each axis: a few strays do not
    decide it."""
    tail = (1 - share) / 2
    low, high = np.quantile(points.detach().cpu().numpy(), (tail, 1 - tail), axis=0)  # torch's refuses 16 M values
    return torch.from_numpy(low).float(), torch.from_numpy(high).float()


def project(camera: Cameras, points: Tensor) -> tuple[Float[Tensor, "points 2"], Float[Tensor, " points"]]:
    """Column and row in pixels, and depth as renderings have it: the inverse of the rays that nerfstudio casts, without
    lens distortion.

    Depth runs along the optical axis of perspective cameras. Of fisheyes and panoramas, which may see behind them,
    it is the distance.

    Raises:
        UserError: the camera is of another kind.
    """
    pose, kind = camera.camera_to_worlds[0], int(camera.camera_type[0])
    axes = pose[:, :3].t().contiguous()  # as it lies in `pose`, a CPU takes ten times as long
    right, up, back = axes @ (points - pose[:, 3]).t()
    if kind == CameraType.PERSPECTIVE.value:
        depth = -back
        across, down = right / depth, -up / depth
    elif kind == CameraType.FISHEYE.value:
        off_axis = torch.hypot(right, up)
        angle, depth = torch.atan2(off_axis, -back) / off_axis.clamp(min=1e-12), torch.hypot(off_axis, back)
        across, down = right * angle, -up * angle
    elif kind == CameraType.EQUIRECTANGULAR.value:
        depth = torch.hypot(torch.hypot(right, up), back)
        across, down = torch.atan2(right, -back) / torch.pi, torch.acos(up / depth) / torch.pi - 0.5
    else:
        raise UserError(
            f"Masks cannot be carried into the scene by {CameraType(kind).name.lower()} cameras: say where it may "
            "change by --pipeline.box."
        )
    return torch.stack([camera.fx[0] * across + camera.cx[0], camera.fy[0] * down + camera.cy[0]]).t(), depth
