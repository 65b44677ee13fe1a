"""Planes that carry objects: a floor, a table, a wall."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

TRIALS = 400
"""Planes through three random points that are tried."""
SAMPLE = 4000
"""Points by which they are judged."""
LEAST_SHARE = 0.1
"""Of the points, that a plane has to hold."""
BEYOND = 0.05
"""The share of the points that may lie behind it."""
MOST = 3
"""Planes that are looked for."""
WIDEST = 3.0
"""Half the thickness of a plane, in pixels, is at most this, and one at least."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane with a thickness; its normal points to the cameras."""

    normal: Float[Tensor, "3"]
    offset: float
    band: float
    """Points within this distance count as lying in it, in scene units."""

    def height(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Distance of points, positive on the cameras' side."""
        return points @ self.normal - self.offset


def supporting_planes(
    points: Float[Tensor, "points 3"],
    cameras: Float[Tensor, "views 3"],
    point: Float[Tensor, "3"],
    pixel: float,
) -> list[Plane]:
    """Planes with all cameras on one side of them and hardly anything on the other, the largest first.

    A plane that `point` lies in is none of them: that is then the object.

    Args:
        points: on the surfaces around `point`.
        pixel: how wide a pixel is there, in scene units.
    """
    generator = torch.Generator().manual_seed(0)
    planes: list[Plane] = []
    left, everything = points, points[torch.randint(len(points), (SAMPLE,), generator=generator)]
    while len(planes) < MOST and len(left) > LEAST_SHARE * len(points):
        share = LEAST_SHARE * len(points) / len(left)
        plane = _largest(left, everything, cameras, point, pixel, share, generator)
        if plane is None:
            break
        planes.append(plane)
        left = left[plane.height(left) > plane.band]
    return planes


def _largest(
    points: Tensor,
    everything: Tensor,
    cameras: Tensor,
    point: Tensor,
    pixel: float,
    share: float,
    generator: torch.Generator,
) -> Plane | None:
    """Through `points`; nothing of `everything` may lie behind it, the planes found before included."""
    sample = points[torch.randint(len(points), (SAMPLE,), generator=generator)]
    corners = sample[torch.randint(SAMPLE, (TRIALS, 3), generator=generator)]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.nn.functional.normalize(normals, dim=-1)
    offsets = (normals * corners[:, 0]).sum(-1)
    side = torch.sign((cameras @ normals.T - offsets).mean(0))
    normals, offsets = normals * side[:, None], offsets * side
    heights = sample @ normals.T - offsets
    held = (heights.abs() < pixel).float().mean(0)
    supports = (
        ((everything @ normals.T - offsets < -WIDEST * pixel).float().mean(0) < BEYOND)
        & (cameras @ normals.T > offsets).all(0)
        & (normals @ point - offsets > pixel)
        & (held > share / 2)
    )
    if not bool(supports.any()):
        return None
    best = int(torch.where(supports, held, -1.0).argmax())
    normal, offset = normals[best], offsets[best]
    for _ in range(3):  # by least squares, through what lies in it
        inside = sample[(sample @ normal - offset).abs() < WIDEST * pixel / 2]
        middle = inside.mean(0)
        fitted = torch.linalg.svd(inside - middle, full_matrices=False).Vh[-1]
        normal = fitted * torch.sign(fitted @ normal)
        offset = normal @ middle
    heights = sample @ normal - offset
    spread = float(heights[heights.abs() < WIDEST * pixel / 2].std())
    band = min(max(3 * spread, pixel), WIDEST * pixel)
    if float((heights.abs() < band).float().mean()) < share:
        return None
    return Plane(normal, float(offset), band)
