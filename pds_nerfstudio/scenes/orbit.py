"""Cameras around a subject: the views that a prior of several views was trained on (MVDream, Shi et al. 2023).

Four azimuths 90 degrees apart from a random one on, one elevation, one field of view, the subject filling the picture.
The world's z axis points up, as nerfstudio orients captures.

The trap: a scene is known only where photographs saw it. An orbit around a subject that was photographed from one side
shows the prior the backs of Gaussians, and the edit makes them up. `check_orbit` refuses such captures.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pds_nerfstudio.errors import UserError

CamerasToWorld = Float[Tensor, "views 3 4"]
"""OpenGL cameras: x right, y up, looking along −z."""

VIEWS = 4
NEEDED_DEGREES = 270.0
"""Of azimuth that a capture has to cover: then at most one of four views has no photograph near it."""
INSIDE = 0.95
"""Share of the opacity that a subject's radius encloses."""


@dataclass(frozen=True)
class Subject:
    """What an orbit is around, in the scene's unit."""

    centre: Float[Tensor, "3"]
    radius: float


@dataclass(frozen=True)
class Orbit:
    """Cameras around a subject that share a field of view."""

    cameras: CamerasToWorld
    tan_half: float
    """Tangent of half the field of view."""


@dataclass(frozen=True)
class OrbitRange:
    """What orbits are drawn from, uniformly; the defaults are those of MVDream's distillation."""

    elevation: tuple[float, float] = (0.0, 30.0)
    """Degrees above the horizon."""
    field_of_view: tuple[float, float] = (15.0, 60.0)
    """Degrees."""
    distance: tuple[float, float] = (0.8, 1.0)
    """Relative to the distance from which the subject's radius reaches the border of the picture."""

    def draw(self, subject: Subject, generator: torch.Generator, views: int = VIEWS) -> Orbit:
        """An orbit from a random azimuth on."""
        offset, *shares = torch.rand(4, generator=generator).tolist()
        elevation, field_of_view, distance = (
            low + share * (high - low)
            for share, (low, high) in zip(shares, (self.elevation, self.field_of_view, self.distance), strict=True)
        )
        tan_half = math.tan(math.radians(field_of_view) / 2)
        azimuth = 2 * math.pi * (offset + torch.arange(views) / views)
        return Orbit(
            orbit_cameras(subject.centre, azimuth, math.radians(elevation), distance * subject.radius / tan_half),
            tan_half,
        )


def orbit_cameras(
    centre: Float[Tensor, "3"], azimuth: Float[Tensor, " views"], elevation: float, distance: float
) -> CamerasToWorld:
    """Cameras that look at `centre`; angles in radians, azimuths from the x axis towards y."""
    level, height = math.cos(elevation), math.sin(elevation)
    away = torch.stack([level * azimuth.cos(), level * azimuth.sin(), torch.full_like(azimuth, height)], dim=-1)
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], dim=-1)
    return torch.stack([right, torch.linalg.cross(away, right), away, centre.to(away) + distance * away], dim=-1)


def looked_at(cameras: CamerasToWorld) -> Float[Tensor, "3"]:
    """The point nearest to all optical axes, in the least-squares sense: what a capture walks around.

    Parallel cameras have no such point and give one of those that are equally near.
    """
    forward = -cameras[:, :, 2].double()
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None]
    wanted = (across @ cameras[:, :, 3, None].double()).sum(0)
    return (torch.linalg.pinv(across.sum(0)) @ wanted)[:, 0].to(cameras)


def framed_by(cameras: CamerasToWorld, tan_half: float) -> Subject:
    """What a capture itself frames: the point that its cameras look at, out to the border of a picture from its middle.

    The subject to tell a prior of a capture's own views (`objectives.cameras`): it does not depend on the scene's unit,
    and an edit that changes the subject's size leaves it where it is.
    """
    centre = looked_at(cameras)
    return Subject(centre, float((cameras[:, :, 3] - centre).norm(dim=-1).median()) * tan_half)


def find_subject(
    points: Float[Tensor, "points 3"], opacity: Float[Tensor, " points"], start: Float[Tensor, "3"], reach: float
) -> Subject:
    """The bulk of opacity about a point: one that was clicked, or that the cameras look at.

    A ball of radius `reach` moves to the opacity-weighted median of what lies in it, until it stays. The radius
    encloses `INSIDE` of the opacity in the ball.

    Args:
        points: centres of Gaussians, or samples of a field.
        opacity: of each, in [0, 1], or density times its volume.
        reach: in the scene's unit; larger than the subject and smaller than the way to its surroundings.

    Raises:
        UserError: there is nothing within reach of the point.
    """
    centre = start.to(points)
    for _ in range(20):
        inside = (points - centre).norm(dim=-1) <= reach
        moved = _weighted_median(points[inside], opacity[inside], centre, reach)
        if (moved - centre).norm() < 1e-3 * reach:
            break
        centre = moved
    inside = (points - centre).norm(dim=-1) <= reach
    return _about(centre, points[inside], opacity[inside])


def subject_in_box(
    points: Float[Tensor, "points 3"],
    opacity: Float[Tensor, " points"],
    low: Float[Tensor, "3"],
    high: Float[Tensor, "3"],
) -> Subject:
    """The subject that a box encloses: about the box's middle, as far as the opacity within reaches.

    Raises:
        UserError: the box is empty.
    """
    inside = ((points >= low) & (points <= high)).all(dim=-1)
    if float(opacity[inside].sum()) <= 0:
        raise UserError(f"The box from {_words(low)} to {_words(high)} holds nothing of the scene: give a larger one.")
    return _about((low + high) / 2, points[inside], opacity[inside])


def sees(cameras: CamerasToWorld, tan_half: float, centre: Float[Tensor, "3"]) -> Bool[Tensor, " views"]:
    """Which cameras have the point in front of them and within the picture."""
    seen = (cameras[:, :, :3].mT @ (centre.to(cameras) - cameras[:, :, 3])[..., None])[..., 0]
    depth = -seen[:, 2]
    return (depth > 0) & (seen[:, :2].abs().amax(dim=-1) <= depth * tan_half)


def covered_degrees(cameras: CamerasToWorld, centre: Float[Tensor, "3"]) -> float:
    """360 degrees less the widest gap between neighbouring azimuths of the cameras about a point; 0 for one camera."""
    if len(cameras) == 0:
        return 0.0
    offset = (cameras[:, :2, 3] - centre[:2].to(cameras)).double()
    azimuth = torch.atan2(offset[:, 1], offset[:, 0]).sort().values
    gaps = torch.cat([azimuth[1:], azimuth[:1] + 2 * math.pi]) - azimuth
    return 360.0 - math.degrees(float(gaps.max()))


def check_orbit(cameras: CamerasToWorld, tan_half: float, subject: Subject, needed: float = NEEDED_DEGREES) -> None:
    """Raise a UserError where the photographs that show the subject do not look around it.

    Args:
        cameras: of all photographs.
        tan_half: tangent of half their field of view, of the longer side.
        needed: degrees of azimuth that they have to cover.
    """
    seeing = cameras[sees(cameras, tan_half, subject.centre)]
    covered = covered_degrees(seeing, subject.centre)
    if covered < needed:
        raise UserError(
            f"{len(seeing)} of {len(cameras)} photographs show the subject at {_words(subject.centre)} and cover "
            f"{covered:.0f} of the 360 degrees around it, and an orbit needs {needed:.0f}: edit with "
            "--pipeline.views training, or name another subject."
        )


def _about(centre: Tensor, points: Tensor, opacity: Tensor) -> Subject:
    distance, order = (points - centre).norm(dim=-1).sort()
    share = opacity[order].double().cumsum(0)
    within = int(torch.searchsorted(share, INSIDE * share[-1]).clamp(max=len(distance) - 1))
    return Subject(centre, float(distance[within]))


def _weighted_median(points: Tensor, opacity: Tensor, centre: Tensor, reach: float) -> Tensor:
    if float(opacity.sum()) <= 0:
        raise UserError(
            f"There is nothing of the scene within {reach:g} of the point {_words(centre)}: give one on the subject."
        )
    ordered, order = points.sort(dim=0)
    share = opacity[order].double().cumsum(0)
    index = (share < share[-1:] / 2).sum(0).clamp(max=len(points) - 1)
    return ordered.gather(0, index[None])[0]


def _words(point: Tensor) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in point.tolist()) + ")"
