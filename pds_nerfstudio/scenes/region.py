"""Where a scene may change: boxes, masks of its views, and what several of them have in common.

What that freezes differs by family: see `nerf.py` and `splats.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from rich.progress import track
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import visible_files
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.hull import Bounds, Hull, Region, resized
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.scenes.views import Views

HULL_VIEWS = 48
"""At most so many views are asked where a hull is, evenly chosen."""
MASK_SIZE = 256
"""Longer side, in pixels, at which masks are carried into the scene."""
Corners = tuple[float, float, float, float, float, float]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """A box along the scene's axes: the least x, y, z and the greatest, in scene units.

    Raises ValueError where the least is not less.
    """

    corners: Corners

    def __post_init__(self) -> None:
        if not all(low < high for low, high in zip(self.corners[:3], self.corners[3:], strict=True)):
            raise ValueError(
                f"the box {self.corners} is empty: give the least x, y, z and then the greatest, in the "
                "coordinates that the viewer shows."
            )

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is in the box, its faces included."""
        low, high = (points.new_tensor(corner) for corner in (self.corners[:3], self.corners[3:]))
        return ((points >= low) & (points <= high)).all(-1)


@dataclass(frozen=True)
class Ball:
    """A ball in scene units."""

    centre: tuple[float, ...]
    radius: float

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is in the ball, its surface included."""
        return (points - points.new_tensor(self.centre)).norm(dim=-1) <= self.radius


@dataclass(frozen=True)
class Common:
    """What two regions have in common."""

    first: Region
    second: Region

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is in both."""
        return self.first.contains(points) & self.second.contains(points)


def bounds_of(region: Region) -> Bounds | None:
    """Of a box that holds a region; None where none is known."""
    match region:
        case Box(corners):
            return corners[:3], corners[3:]
        case Ball((x, y, z), r):
            return (x - r, y - r, z - r), (x + r, y + r, z + r)
        case Common(first, second):
            return bounds_of(first) or bounds_of(second)
    return None


def common(*regions: Region | None) -> Region | None:
    """What all of them have in common, None being everywhere."""
    found: Region | None = None
    for region in regions:
        if region is not None:
            found = region if found is None else Common(found, region)
    return found


@dataclass(frozen=True)
class Either:
    """What lies in one of two regions, or in both."""

    first: Region
    second: Region

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is in one of them."""
        return self.first.contains(points) | self.second.contains(points)


@dataclass(frozen=True)
class Outside:
    """What lies outside of a region."""

    region: Region

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether each point is not in the region."""
        return ~self.region.contains(points)


@torch.no_grad()
def hull_of_views(
    model: Model,
    views: Views,
    size: Callable[[int], tuple[int, int]],
    mask: Callable[[int, Cameras, Rendering], Float[Tensor, "_ _"]],
    doing: str,
) -> Hull:
    """Where in space views are found to be relevant, by up to `HULL_VIEWS` of them.

    Args:
        model: the scene whose surfaces hide what lies behind them.
        size: height and width in pixels at which to render a view.
        mask: relevance in [0, 1] of a view, given its number, its camera and its rendering; of any size.
        doing: what the progress bar says.
    """
    cameras, masks, renderings = [], [], []
    stride = max(1, math.ceil(len(views) / HULL_VIEWS))
    for index in track(range(0, len(views), stride), doing, console=CONSOLE, transient=True):
        cameras.append(views.camera(index, *size(index)))
        renderings.append(render(model, cameras[-1]))
        masks.append(mask(index, cameras[-1], renderings[-1]))
    return Hull.from_renderings(cameras, masks, renderings)


def hull_of_masks(model: Model, views: Views, folder: Path) -> Hull:
    """Where in space the images in `folder`, named like some of the views, are white.

    Raises:
        UserError: none of them is named like a view, one like several, or one cannot be read.
    """
    cameras, masks, renderings = [], [], []
    for index, path in _mask_files(views.names, folder).items():
        try:
            mask = torch.from_numpy(np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255)
        except OSError as error:
            raise UserError(f"The mask {path} cannot be read ({error}): replace it.") from error
        height, width = views.size(index)
        scale = min(1.0, MASK_SIZE / max(height, width))
        size = round(height * scale), round(width * scale)
        cameras.append(views.camera(index, *size))
        masks.append(resized(mask, size).to(model.device))  # at full size, hundreds of them would fill a GPU
        with torch.no_grad():
            renderings.append(render(model, cameras[-1]))
    if not masks:
        raise UserError(
            f"No image in {folder} is named like a training view, such as {Path(views.names[0]).stem}.png: name masks "
            "like the photographs they belong to."
        )
    return Hull.from_renderings(cameras, masks, renderings)


def _mask_files(names: Sequence[str], folder: Path) -> dict[int, Path]:
    """The masks of the views that have one, by the view's number.

    A view's path, without its ending, ends with its mask's path in `folder`: of several such masks the longest is its.

    Raises:
        UserError: a mask is that of several views.
    """
    files = {_without_ending(path.relative_to(folder)): path for path in visible_files(folder)}
    found: dict[int, Path] = {}
    for index, parts in enumerate(_without_ending(Path(name)) for name in names):
        tail = next((parts[start:] for start in range(len(parts)) if parts[start:] in files), None)
        if tail is None:
            continue
        path = files[tail]
        if other := next((names[i] for i, mask in found.items() if mask == path), None):
            raise UserError(
                f"The mask {path} is named like several views, {other} and {names[index]}: put masks into folders "
                "named like those of the photographs."
            )
        found[index] = path
    return found


def _without_ending(path: Path) -> tuple[str, ...]:
    return path.with_suffix("").parts
