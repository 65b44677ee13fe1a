"""What is drawn on a view: a rectangle of a camera's picture adds what it shows to a region, or takes it away.

    rectangle ── depth of the scene as it is ──► the part of space between camera and surface that it covers

A view shows only the surfaces that face it: the back of an object is drawn on from behind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model

from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.hull import Hull, Region
from pds_nerfstudio.scenes.region import Common, Either, Outside

SIDE = 256
"""Height of the picture on which a stencil lies, in pixels."""


@dataclass(frozen=True)
class Stencil:
    """A rectangle drawn on a perspective camera's picture.

    Raises ValueError where it is empty, or the camera is none.
    """

    pose: tuple[float, ...]
    """Camera to world in scene units, 3 x 4, row by row."""
    fov: float
    """Vertical field of view, in radians."""
    aspect: float
    """Width of the picture by its height."""
    rectangle: tuple[float, float, float, float]
    """Left, top, right and bottom, as shares of width and height from the upper left corner."""
    adds: bool = True
    """Whether what it shows joins the region, or leaves it."""

    def __post_init__(self) -> None:
        numbers = (*self.pose, self.fov, self.aspect, *self.rectangle)
        if len(self.pose) != 12 or not all(map(math.isfinite, numbers)):
            raise ValueError("a stencil's camera has a pose of twelve numbers.")
        if not (0 < self.fov < math.pi and 0.01 < self.aspect < 100):
            raise ValueError("a stencil's camera has a field of view below 180 degrees and a picture's shape.")
        left, top, right, bottom = self.rectangle
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1) or not isinstance(self.adds, bool):
            raise ValueError(f"the rectangle {self.rectangle} is empty or leaves the picture: drag over what it shows.")

    @property
    def camera(self) -> Cameras:
        """Whose picture it lies on."""
        width = max(round(self.aspect * SIDE), 1)
        focal = SIDE / 2 / math.tan(self.fov / 2)
        return Cameras(torch.tensor(self.pose).reshape(1, 3, 4), focal, focal, width / 2, SIDE / 2, width, SIDE)

    @torch.no_grad()
    def covered(self, model: Model) -> Hull:
        """What it shows of a scene."""
        camera = self.camera.to(model.device)
        height, width = int(camera.height[0]), int(camera.width[0])
        left, top, right, bottom = self.rectangle
        mask = torch.zeros(height, width, device=model.device)
        rows = slice(math.floor(top * height), math.ceil(bottom * height))
        mask[rows, math.floor(left * width) : math.ceil(right * width)] = 1.0
        return Hull.from_renderings([camera], [mask], [render(model, camera)])


def drawn_on(model: Model, region: Region | None, stencils: Sequence[Stencil]) -> Region | None:
    """A region after stencils, in their order.

    Args:
        region: before; None where nothing has been chosen. The first stencil then decides whether it begins with
            nothing or with everything.
    """
    for stencil in stencils:
        covered = stencil.covered(model)
        if stencil.adds:
            region = covered if region is None else Either(region, covered)
        else:
            region = Outside(covered) if region is None else Common(region, Outside(covered))
    return region
