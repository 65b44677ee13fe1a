"""The object that a point lies on: what one click selects, in a NeRF as in splats.

    point ── grown over the surfaces that views show ──► a mask per view ── lifted ──► Gaussians, or a hull

A view's rendering gives a point of the surface, and its colour, for each pixel. The points of all views together are
one cloud, in which what belongs to the click is found:

1. Planes with the cameras on one side and nothing on the other carry the object (floor, wall): they are taken out.
2. Neighbours are linked, and what is linked to the click is the object, with the parts beside it that would float
   without it. Where that runs out of the ball in which objects are looked for, only neighbours of similar colour are
   linked: as similar as it takes to stay inside.
3. Along a plane depth cannot tell the object's foot from the floor: there the colour decides.

Pixels at which depth jumps show two surfaces at once, and have no say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.families import render, scene_of
from pds_nerfstudio.scenes.hull import Region
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.region import Point
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.scenes.support import Plane, supporting_planes
from pds_nerfstudio.scenes.views import Views

LOOKS = 24
"""Views whose surfaces are grown over, evenly chosen."""
SIDE = 96
"""Their shorter side, in pixels."""
OPAQUE = 0.5
"""Pixels of less opacity show no surface."""
RAY = 5
"""Pixels of the small picture around a ray by which its surface is found."""
FOCAL = 500.0
"""Its focal length, in pixels."""
REACH = 0.8
"""Objects are looked for within so much of the distance from which the views see the point."""
LINK = 2.5
"""Points are neighbours where they are nearer to each other than so many pixels are wide there."""
VOXEL = 0.4
"""Side of the voxels of which one point each is linked, as a share of the distance between neighbours: one pixel."""
SHADE = 0.1
"""Their side in each of R, G and B."""
ASIDE = 12.0
"""Pixels between the point and the nearest surface that is no plane's, at most."""
JUMP = 3.0
"""Depth jumps where neighbouring pixels are farther apart in it than so many pixels are wide there."""
TOLERANCES = (np.inf, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.035, 0.025)
"""Differences in RGB between neighbours that are tried, the largest first."""
EDGE = 0.9
"""What comes farther than this share of the reach has run out of it."""
RADIUS = 0.95
"""A ball of an object's radius about its middle holds this share of its points."""
CLEARER = 0.5
"""At a plane, a point is the object's if its colour is nearer to the object's by this factor than to the plane's."""


def object_at(model: Model, views: Views, point: Point, grown: float = 0.0) -> Region:
    """Where the object is that a point lies on, as the scene is now.

    Args:
        grown: also surfaces up to this share of its radius away; below 0, without its rim of that width.

    Raises:
        UserError: no view sees the point.
    """
    looks = look(model, views)
    chosen = widened(looks, grow(looks, torch.tensor(point)), grown)
    return scene_of(model).region_of_masks(
        looks.cameras, looks.renderings, looks.split(chosen), looks.split(looks.clear)
    )


def point_seen(model: Model, views: Views, view: int, column: float, row: float) -> Point:
    """The point that a pixel of a view's image shows, in scene units.

    Raises:
        UserError: there is no such view or pixel, or it shows nothing.
    """
    if not 0 <= view < len(views):
        raise UserError(f"There is no training view {view}: there are {len(views)}, counted from 0.")
    x, y, z = surface_at(model, views.camera(view, *views.size(view), device=model.device), column, row).tolist()
    return x, y, z


@dataclass(frozen=True, eq=False)
class Looks:
    """What several views show of a scene's surfaces, a point for each pixel, view after view."""

    cameras: Sequence[Cameras]
    renderings: Sequence[Rendering]
    points: Float[Tensor, "pixels 3"]
    """In scene units, on the CPU."""
    colours: Float[Tensor, "pixels 3"]
    """RGB in [0, 1]."""
    width: Float[Tensor, " pixels"]
    """How wide a pixel is on its surface, in scene units."""
    clear: Bool[Tensor, " pixels"]
    """Whether a pixel shows one surface."""

    def split(self, values: Bool[Tensor, " pixels"]) -> list[Bool[Tensor, "_ _"]]:
        """Values of all pixels as one map per view."""
        sizes = [tuple(r.image.shape[-2:]) for r in self.renderings]
        return [part.reshape(size) for part, size in zip(values.split([h * w for h, w in sizes]), sizes, strict=True)]

    @property
    def origins(self) -> Float[Tensor, "views 3"]:
        """Where the cameras stand."""
        return torch.cat([camera.camera_to_worlds[:, :, 3] for camera in self.cameras]).cpu()


@torch.no_grad()
def look(model: Model, views: Views) -> Looks:
    """Render some of the views."""
    cameras, renderings, parts = [], [], []
    for index in evenly(len(views), LOOKS):
        height, width = views.size(index)
        smaller = min(1.0, SIDE / min(height, width))
        cameras.append(views.camera(index, round(height * smaller), round(width * smaller), device=model.device))
        renderings.append(render(model, cameras[-1]))
        parts.append(_surface(cameras[-1], renderings[-1]))
    return Looks(cameras, renderings, *(torch.cat(column) for column in zip(*parts, strict=True)))


def _surface(camera: Cameras, rendering: Rendering) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A view's part of `Looks`."""
    rays = camera.generate_rays(camera_indices=0, keep_shape=True).flatten()
    depth = rendering.depth[0, 0]
    distance = depth.flatten()[:, None] * rays.metadata["directions_norm"]
    points = rays.origins + distance * rays.directions
    width = depth / camera.fx[0]
    jump = torch.zeros_like(depth)
    for axis in (0, 1):
        step = depth.diff(dim=axis).abs()
        pad = [0, 0, 1, 0] if axis == 0 else [1, 0]
        back = [0, 0, 0, 1] if axis == 0 else [0, 1]
        for padding in (pad, back):
            jump = torch.maximum(jump, torch.nn.functional.pad(step, padding))
    clear = (rendering.accumulation[0, 0] > OPAQUE) & (jump < JUMP * width)
    colours = rendering.image[0].flatten(1).T
    return points.cpu(), colours.cpu(), width.flatten().cpu(), clear.flatten().cpu()


@torch.no_grad()
def surface_at(model: Model, camera: Cameras, column: float, row: float) -> Float[Tensor, "3"]:
    """The point of the surface that a pixel shows, in scene units, on the CPU.

    Args:
        camera: one, batch size 1.
        column: in pixels from the left of its picture, 0.5 in the middle of the first.
        row: in pixels from its top.

    Raises:
        UserError: the pixel lies outside of the picture, or shows no surface.
    """
    height, width = int(camera.height[0]), int(camera.width[0])
    if not (0 <= column < width and 0 <= row < height):
        raise UserError(f"The pixel ({column:g}, {row:g}) lies outside of a view of {width} x {height} pixels.")
    rendering = render(model, camera)
    place = int(row), int(column)
    if float(rendering.accumulation[0, 0][place]) <= OPAQUE:
        raise UserError(f"The pixel ({column:g}, {row:g}) shows nothing of the scene: click on an object.")
    ray = camera.generate_rays(camera_indices=0, coords=torch.tensor([[row, column]], device=camera.device))
    distance = rendering.depth[0, 0][place] * ray.metadata["directions_norm"]
    return (ray.origins + distance * ray.directions)[0].cpu()


def surface_along(model: Model, origin: Float[Tensor, "3"], direction: Float[Tensor, "3"]) -> Point:
    """The first surface along a ray, in scene units.

    Raises:
        UserError: there is none.
    """
    back = -torch.nn.functional.normalize(direction, dim=0)
    across = torch.eye(3)[int(back.abs().argmin())]
    right = torch.nn.functional.normalize(torch.linalg.cross(across, back), dim=0)
    pose = torch.stack([right, torch.linalg.cross(back, right), back, origin], dim=-1)
    middle = RAY / 2
    focal, centre, size = (torch.tensor([[value]]) for value in (FOCAL, middle, RAY))
    camera = Cameras(pose[None], focal, focal, centre, centre, size, size)
    try:
        x, y, z = surface_at(model, camera.to(model.device), middle, middle).tolist()
    except UserError as error:
        raise UserError("There is nothing of the scene where you clicked: click on an object.") from error
    return x, y, z


def grow(looks: Looks, point: Float[Tensor, "3"]) -> Bool[Tensor, " pixels"]:
    """Which pixels of the views show the object that a point of the surface lies on.

    Raises:
        UserError: no view sees the point, or what lies there cannot be told from a plane.
    """
    away = (looks.points - point).norm(dim=-1)
    reach = REACH * float((looks.origins - point).norm(dim=-1).median())
    inside = (looks.clear & (away < reach)).nonzero()[:, 0]
    if not len(inside) or float(away[inside].min()) > 0.1 * reach:
        raise UserError("No view sees the point that was clicked on: click on something that the photographs show.")
    points, colours = looks.points[inside], looks.colours[inside]
    pixel = float(looks.width[inside].median())
    planes = supporting_planes(points, looks.origins, point, pixel)
    on_plane = torch.zeros(len(points), dtype=torch.bool)
    for plane in planes:
        on_plane |= plane.height(points) <= plane.band
    free = (~on_plane).nonzero()[:, 0]
    chosen = torch.zeros(len(points), dtype=torch.bool)
    to_free = (points[free] - point).norm(dim=-1)
    if not len(free) or float(to_free.min()) > ASIDE * pixel:
        raise UserError(
            "What was clicked on is too flat to be told from the plane that it lies on: give a box or masks."
        )
    start = free[to_free.argmin()]
    number = int((free == start).nonzero())
    chosen[free] = _object(points[free], colours[free], number, planes, LINK * pixel, EDGE * reach)
    for plane in planes:
        chosen |= _foot(points, colours, chosen, plane, LINK * pixel)
    result = torch.zeros(len(looks.points), dtype=torch.bool)
    result[inside] = chosen
    return result


def widened(looks: Looks, chosen: Bool[Tensor, " pixels"], share: float) -> Bool[Tensor, " pixels"]:
    """What is chosen with the surfaces up to `share` of its radius away; below 0, without its rim of that width."""
    if share == 0:
        return chosen
    points = looks.points
    radius = float((points[chosen] - points[chosen].mean(0)).norm(dim=-1).quantile(RADIUS))
    inner = chosen if share > 0 else looks.clear & ~chosen
    outer = looks.clear & ~inner
    away = torch.from_numpy(KDTree(points[inner].numpy()).query(points[outer].numpy())[0])
    inner = inner.clone()
    inner[outer] = away < abs(share) * radius
    return inner if share > 0 else chosen & ~inner


def _object(
    points: Float[Tensor, "points 3"],
    colours: Float[Tensor, "points 3"],
    start: int,
    planes: Sequence[Plane],
    link: float,
    reach: float,
) -> Bool[Tensor, " points"]:
    """What belongs to point number `start`: by the largest tolerance that stays within `reach` of it.

    Where many views show the same surface, each of its points has hundreds of neighbours. One point per voxel speaks
    for those of similar colour there.
    """
    first, voxel_of = _voxels(torch.cat([points / (VOXEL * link), colours / SHADE], dim=-1))
    first[voxel_of[start]] = start
    points, colours, start = points[first], colours[first], int(voxel_of[start])
    pairs = KDTree(points.numpy()).query_pairs(link, output_type="ndarray")
    step = (colours[pairs[:, 0]] - colours[pairs[:, 1]]).norm(dim=-1).numpy()
    away = (points - points[start]).norm(dim=-1)
    found = torch.zeros(len(points), dtype=torch.bool)
    for tolerance in TOLERANCES:
        kept = pairs[step <= tolerance]
        links = coo_matrix((np.ones(len(kept), dtype=bool), (kept[:, 0], kept[:, 1])), shape=(len(points),) * 2)
        labels = torch.from_numpy(connected_components(links, directed=False)[1])
        if planes and np.isinf(tolerance):
            labels = _carried(points, labels, planes, link)
        found = labels == labels[start]
        if float(away[found].max()) < reach:
            break
    return found[voxel_of]


def _voxels(places: Float[Tensor, "points axes"]) -> tuple[Int[Tensor, " voxels"], Int[Tensor, " points"]]:
    """The first point of each voxel of side 1 that holds any, and the voxel of each point, both by number."""
    voxels, voxel_of = torch.unique(places.floor(), dim=0, return_inverse=True)
    first = torch.full((len(voxels),), len(places)).scatter_reduce(0, voxel_of, torch.arange(len(places)), "amin")
    return first, voxel_of


def _carried(
    points: Float[Tensor, "points 3"], labels: Int[Tensor, " points"], planes: Sequence[Plane], link: float
) -> Int[Tensor, " points"]:
    """The labels of connected parts after those that float have joined the nearest part that stands."""
    labels = labels.clone()
    low = torch.stack([plane.height(points) - plane.band for plane in planes]).amin(0)
    stands = torch.isin(labels, labels[low < link])
    if not bool(stands.any()):
        return labels
    tree, of_standing = KDTree(points[stands].numpy()), labels[stands]
    for part in labels[~stands].unique():
        own = labels == part
        away, nearest = map(torch.from_numpy, tree.query(points[own].numpy()))
        labels[own] = of_standing[nearest[away.argmin()]]
    return labels


def _foot(
    points: Float[Tensor, "points 3"],
    colours: Float[Tensor, "points 3"],
    chosen: Bool[Tensor, " points"],
    plane: Plane,
    link: float,
) -> Bool[Tensor, " points"]:
    """Points along a plane, next to what is chosen, whose colour is clearly that of the object rather than the
    plane's own."""
    height = plane.height(points)
    along = ((height <= plane.band) & (height > -plane.band) & ~chosen).nonzero()[:, 0]
    result = torch.zeros(len(points), dtype=torch.bool)
    away = torch.from_numpy(KDTree(points[chosen].numpy()).query(points[along].numpy())[0])
    near = away < plane.band + link
    if not bool(near.any()) or bool(near.all()):
        return result
    of_object, of_plane = (KDTree(colours[which].numpy()) for which in (chosen, along[~near]))
    asked = colours[along[near]].numpy()
    to_object, to_plane = (torch.from_numpy(tree.query(asked)[0]) for tree in (of_object, of_plane))
    result[along[near]] = to_object < CLEARER * to_plane
    return result
