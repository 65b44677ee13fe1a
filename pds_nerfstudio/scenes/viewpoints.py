"""From where a prior is told that a capture's views are seen, and the views around its subject that it may be shown.

A scene's z axis points up, as nerfstudio orients captures. What nobody can know is which side of the subject is its
front: azimuths are counted from the scene's x axis, or from a `front` that the user names.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from pds_nerfstudio.objectives.cameras import CameraMatrices, camera_matrices
from pds_nerfstudio.scenes.hull import Region
from pds_nerfstudio.scenes.orbit import VIEWS, Orbit, OrbitRange, Subject, check_orbit, framed_by, sees
from pds_nerfstudio.scenes.views import Views

SPREAD = 0.05
"""The lowest and the highest share of a capture's elevations count as outliers."""
OVERHEAD, FRONT = 60.0, 45.0
"""Degrees of elevation from which on a view is called one from overhead, and degrees of azimuth up to which one is of
the front."""
DISTANCES = (0.9, 1.1)
"""How far away orbits about what a capture frames are, relative to its own cameras."""


@dataclass(frozen=True)
class Capture:
    """A capture's cameras as an orbit is planned by them. Make one with `capture_of`."""

    cameras: Float[Tensor, "views 3 4"]
    tan_half: Float[Tensor, " views"]
    """Tangent of half of each one's field of view, of the shorter side."""
    tan_longer: float
    """The largest of the longer sides'."""
    framed: Subject
    """What the photographs frame."""

    def matrices(self, about: Subject | None = None, front: float = 0.0) -> CameraMatrices | None:
        """M of every view, azimuths counted from `front` (degrees); None where most do not show the subject's middle,
        so that there is no saying what they look at.

        Args:
            about: the subject, by default what the photographs frame.
        """
        about = about or self.framed
        seeing = sees(self.cameras, self.tan_longer, about.centre)
        return told(self.cameras, about, self.tan_half, front) if seeing.float().mean() >= 0.5 else None

    def range(self) -> OrbitRange:
        """The elevations, field of view and distances of its own cameras."""
        offset = self.cameras[:, :, 3] - self.framed.centre
        elevation = torch.rad2deg(torch.atan2(offset[:, 2], offset[:, :2].norm(dim=-1)))
        low, high = torch.quantile(elevation, torch.tensor([SPREAD, 1 - SPREAD]).to(elevation)).tolist()
        degrees = 2 * math.degrees(math.atan(float(self.tan_half.median())))
        return OrbitRange((low, high), (degrees, degrees), DISTANCES)


def capture_of(cameras: Cameras) -> Capture | None:
    """The capture that these cameras are; None where some are no perspective ones, for which no prior has numbers."""
    if bool((cameras.camera_type != CameraType.PERSPECTIVE.value).any()):
        return None
    sides = torch.cat([cameras.height / cameras.fy, cameras.width / cameras.fx], dim=-1).cpu() / 2
    shorter, poses = sides.amin(-1), cameras.camera_to_worlds.cpu()
    return Capture(poses, shorter, float(sides.amax()), framed_by(poses, float(shorter.median())))


def told(
    cameras: Float[Tensor, "views 3 4"], subject: Subject, tan_half: float | Float[Tensor, " views"], front: float
) -> CameraMatrices:
    """What a prior is told of cameras about a subject, once the scene is turned so that `front` (degrees) is at 0."""
    angle = math.radians(-front)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    away = turn @ (cameras[:, :, 3:] - subject.centre[:, None])
    turned = torch.cat([turn @ cameras[:, :, :3], away], dim=-1)
    return camera_matrices(turned, torch.zeros(3), subject.radius, tan_half)


def view_word(matrix: Float[Tensor, "4 4"]) -> str:
    """How a view is called by where it is seen from (Poole et al. 2022, section 3.2)."""
    x, y, z = matrix[:3, 3].tolist()
    if z > math.sin(math.radians(OVERHEAD)):
        return "overhead view"
    off = abs(math.degrees(math.atan2(y, x)))
    return "front view" if off < FRONT else "back view" if off > 180 - FRONT else "side view"


def orbits_of(capture: Capture, subject: Subject | None, count: int, seed: int) -> list[Orbit]:
    """Orbits about a subject, from MVDream's ranges, so that it fills the picture; where there is None, about what the
    photographs frame, from where they were taken.

    Raises:
        UserError: the photographs do not look around it.
    """
    about = subject or capture.framed
    check_orbit(capture.cameras, capture.tan_longer, about)
    generator, ranges = torch.Generator().manual_seed(seed), capture.range() if subject is None else OrbitRange()
    return [ranges.draw(about, generator) for _ in range(count)]


def views_of(orbits: list[Orbit], size: int, within: Region | None = None) -> Views:
    """The views of orbits, one orbit after the other: square pictures of `size` pixels, and no photographs.

    Args:
        within: what of the scene they show; all of it by default.
    """

    def read(index: int) -> Tensor:
        raise ValueError(f"View {index} is of an orbit and has no photograph.")

    tan_half = torch.tensor([orbit.tan_half for orbit in orbits]).repeat_interleave(VIEWS)
    focal = (size / 2 / tan_half)[:, None]
    poses = torch.cat([orbit.cameras for orbit in orbits])
    cameras = Cameras(poses, focal, focal, size / 2, size / 2, size, size)
    names = tuple(f"orbit {number}, view {view}" for number in range(len(orbits)) for view in range(VIEWS))
    return Views(cameras, read, names, in_training=False, photographed=False, within=within)
