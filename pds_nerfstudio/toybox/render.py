"""Renders toybox scenes with exact depth and masks: sphere tracing, one light, a soft shadow.

Geometry and colour are separate steps (`trace`, `shade`): one traced view can be coloured many times, which is how the
prior's training images are made.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pds_nerfstudio.objectives.cameras import CameraMatrices, camera_matrices
from pds_nerfstudio.toybox.geometry import (
    BOUND_CENTRE,
    BOUND_RADIUS,
    FLOOR_RADIUS,
    Material,
    Points,
    Solid,
    length,
    material_at,
    signed_distance,
    solid,
    surface_normal,
    unit,
)
from pds_nerfstudio.toybox.spec import Colour, Floor, SceneSpec

FIELD_OF_VIEW = math.radians(40)
ORBIT_RADIUS = 3.6
LOOK_AT = (0.0, 0.0, 0.72)
LIGHT = (-0.45, 0.55, 1.0)
TRACE_STEPS = 56
SHADOW_STEPS = 24
SHADOW_SHARPNESS = 6.0

RGB = tuple[float, float, float]

COLOUR_RGB: dict[Colour, RGB] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.95, 0.85, 0.12),
    "green": (0.12, 0.60, 0.18),
    "cyan": (0.10, 0.75, 0.80),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.50, 0.14, 0.65),
    "white": (0.95, 0.95, 0.95),
}
FLOOR_RGB: dict[Floor, RGB] = {
    "gray": (0.55, 0.55, 0.57),
    "black": (0.16, 0.16, 0.18),
    "brown": (0.45, 0.28, 0.16),
    "beige": (0.85, 0.76, 0.60),
}
BACKGROUND_RGB = (1.0, 1.0, 1.0)
SKIN_RGB = (0.93, 0.74, 0.60)
HAT_RGB = (0.10, 0.09, 0.11)


@dataclass(frozen=True)
class TracedViews:
    """Geometry seen by a set of cameras, colour not yet decided."""

    material: UInt8[Tensor, "views height width"]
    """A `Material` per pixel."""
    diffuse: Float[Tensor, "views height width"]
    """Factor on the material's colour, in [0, 1]: light, shadow and ambience."""
    highlight: Float[Tensor, "views height width"]
    """Added to every channel, in [0, 1]."""
    depth: Float[Tensor, "views height width"]
    """Distance along the optical axis in metres; 0 where there is only background."""


@dataclass(frozen=True)
class RenderedViews:
    """Images of one scene with their ground truth."""

    image: Float[Tensor, "views height width 3"]
    """RGB in [0, 1]."""
    depth: Float[Tensor, "views height width"]
    """Distance along the optical axis in metres, at pixel centres; 0 on the background."""
    mask: Float[Tensor, "views height width"]
    """Share of the pixel that shows the object (hat included), in [0, 1]."""


def orbit_cameras(
    azimuth: Float[Tensor, " views"],
    elevation: Float[Tensor, " views"],
    radius: float | Tensor = ORBIT_RADIUS,
    look_at: tuple[float, float, float] | Tensor = LOOK_AT,
) -> Float[Tensor, "views 3 4"]:
    """Camera-to-world matrices (OpenGL: x right, y up, looking along -z) around `look_at`; angles in radians."""
    direction = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
    target = torch.as_tensor(look_at, dtype=direction.dtype).expand_as(direction)
    position = target + torch.as_tensor(radius, dtype=direction.dtype).reshape(-1, 1) * direction
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], dim=-1)
    up = torch.linalg.cross(direction, right)
    return torch.stack([right, up, direction, position], dim=-1)


def focal_length(width: int) -> float:
    """Focal length in pixels of an image of that width."""
    return width / (2 * math.tan(FIELD_OF_VIEW / 2))


def toybox_matrices(camera_to_world: Float[Tensor, "views 3 4"]) -> CameraMatrices:
    """What the toybox prior is told of cameras: around the point that captures look at, from a capture's distance."""
    extent = ORBIT_RADIUS * math.tan(FIELD_OF_VIEW / 2)
    return camera_matrices(camera_to_world, torch.tensor(LOOK_AT), extent, math.tan(FIELD_OF_VIEW / 2))


def camera_rays(
    camera_to_world: Float[Tensor, "views 3 4"], height: int, width: int
) -> tuple[Float[Tensor, "views pixels 3"], Float[Tensor, "views pixels 3"]]:
    """Origins and directions through the pixel centres; a direction's component along the optical axis is 1."""
    focal = focal_length(width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    local = torch.stack([(x - width / 2) / focal, -(y - height / 2) / focal, -torch.ones_like(x)], dim=-1)
    directions = local.reshape(1, -1, 3).to(camera_to_world) @ camera_to_world[:, :, :3].mT
    return camera_to_world[:, None, :, 3].expand_as(directions), directions


def _hit_bound(origins: Points, directions: Points) -> tuple[Tensor, Tensor]:
    """Ray parameters at which the object's bounding sphere is entered and left; left < entered where it is missed."""
    offset = origins - origins.new_tensor(BOUND_CENTRE)[:, None]
    a = directions.square().sum(0)
    b = (offset * directions).sum(0) / a
    c = (offset.square().sum(0) - BOUND_RADIUS**2) / a
    root = b.square() - c
    half = root.clamp_min(0).sqrt()
    entered = (-b - half).clamp_min(0)
    return entered, torch.where(root > 0, -b + half, entered - 1)


def _sphere_trace(parts: Solid, origins: Points, directions: Points, start: Tensor, end: Tensor) -> Tensor:
    """Ray parameter of the first hit in [start, end], infinity where there is none.

    Rays that have arrived or left the bounding sphere drop out along the way.
    """
    result = torch.full_like(start, torch.inf)
    ray, t, speed = torch.arange(len(start), device=start.device), start, length(*directions)
    for step in range(TRACE_STEPS):
        distance = signed_distance(parts, torch.addcmul(origins, t, directions))
        arrived = distance < 1e-3
        if step % 6 == 5 or step == TRACE_STEPS - 1:
            arrived |= (distance < 4e-3) & (step == TRACE_STEPS - 1)
            result[ray[arrived]] = t[arrived]
            going = (~arrived & (t < end)).nonzero().squeeze(-1)
            ray, t, speed, end, distance = ray[going], t[going], speed[going], end[going], distance[going]
            origins, directions = origins[:, going], directions[:, going]
            if len(ray) == 0:
                break
        t = t + distance / speed
    return result


def _soft_shadow(parts: Solid, points: Points, light: Tensor) -> Tensor:
    """Share of light that reaches each point, in [0, 1], by the narrowest miss along the way to the light."""
    entered, left = _hit_bound(points, light[:, None].expand_as(points))
    share = torch.ones_like(entered)
    inside = (left > entered).nonzero().squeeze(-1)
    if len(inside) == 0:
        return share
    origins, t, narrowest = points[:, inside], entered[inside] + 0.02, share[inside]
    for _ in range(SHADOW_STEPS):
        distance = signed_distance(parts, origins + t * light[:, None])
        narrowest = torch.minimum(narrowest, 0.5 + 0.5 * SHADOW_SHARPNESS * distance / t.clamp_min(0.1))
        t = t + distance.clamp(0.03, 0.2)
    narrowest = narrowest.clamp(0, 1)
    share[inside] = narrowest.square() * (3 - 2 * narrowest)
    return share


def trace(spec: SceneSpec, camera_to_world: Float[Tensor, "views 3 4"], height: int, width: int) -> TracedViews:
    """What each pixel centre sees. Colour and floor of `spec` play no part."""
    views = [_trace_view(spec, camera, height, width) for camera in camera_to_world]
    return TracedViews(*(torch.stack(column).reshape(-1, height, width) for column in zip(*views, strict=True)))


@torch.no_grad()
def _trace_view(spec: SceneSpec, camera_to_world: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """One view at a time: its rays fit into the processor's cache."""
    parts = solid(spec.shape, spec.hat)
    origins, directions = (rays[0].T.contiguous() for rays in camera_rays(camera_to_world[None], height, width))
    light = torch.nn.functional.normalize(origins.new_tensor(LIGHT), dim=0)

    to_floor = -origins[2] / directions[2].clamp_max(-1e-6)
    on_floor = length(*(origins + to_floor * directions)[:2]) < FLOOR_RADIUS
    depth = torch.where((directions[2] < 0) & on_floor, to_floor, torch.full_like(to_floor, torch.inf))
    material = torch.where(depth.isfinite(), int(Material.FLOOR), int(Material.BACKGROUND))

    entered, left = _hit_bound(origins, directions)
    candidate = (left > entered).nonzero().squeeze(-1)
    hit_depth = _sphere_trace(
        parts, origins[:, candidate], directions[:, candidate], entered[candidate], left[candidate]
    )
    visible = hit_depth < depth[candidate]
    hits = candidate[visible]
    depth[hits] = hit_depth[visible]

    points = origins + depth.nan_to_num(posinf=0.0) * directions
    normals = torch.zeros_like(points)
    normals[2] = 1
    if len(hits):
        material[hits] = material_at(parts, points[:, hits])
        normals[:, hits] = surface_normal(parts, points[:, hits])

    lit = (material != Material.BACKGROUND).nonzero().squeeze(-1)
    shadow = torch.ones_like(depth)
    shadow[lit] = _soft_shadow(parts, points[:, lit] + 1e-2 * normals[:, lit], light)
    towards_light = (light @ normals).clamp_min(0)
    sky = 0.5 + 0.5 * normals[2]
    diffuse = 0.28 + 0.17 * sky + 0.55 * towards_light * shadow
    view = unit(-directions)
    half_way = unit(view + light[:, None])
    highlight = 0.25 * (normals * half_way).sum(0).clamp_min(0) ** 24 * shadow
    highlight = torch.where(material == Material.OBJECT, highlight, 0.0)
    diffuse = torch.where(material == Material.BACKGROUND, 1.0, diffuse)
    return material.to(torch.uint8), diffuse, highlight, torch.where(depth.isfinite(), depth, 0.0)


def palette(spec: SceneSpec, paint: RGB | None = None) -> Float[Tensor, "materials 3"]:
    """RGB in [0, 1] of every `Material` in this scene; of its object, `paint` where that is given."""
    colour = COLOUR_RGB[spec.colour] if paint is None else paint
    return torch.tensor([BACKGROUND_RGB, FLOOR_RGB[spec.floor], colour, SKIN_RGB, HAT_RGB])


def shade(traced: TracedViews, colours: Float[Tensor, "materials 3"]) -> Float[Tensor, "views height width 3"]:
    """Images in [0, 1] from traced views and a palette."""
    albedo = colours.to(traced.diffuse)[traced.material.long()]
    return (albedo * traced.diffuse[..., None] + traced.highlight[..., None]).clamp(0, 1)


def _area_downsample(values: Tensor, factor: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(values, factor)


def render(
    spec: SceneSpec,
    camera_to_world: Float[Tensor, "views 3 4"],
    height: int,
    width: int,
    supersample: int = 2,
    views_at_once: int = 8,
    paint: RGB | None = None,
) -> RenderedViews:
    """Images, depth and object masks of a scene from the given cameras, with the object in `paint` if that is given.

    Images and masks average `supersample`² samples a pixel; depth is taken at pixel centres without averaging.
    """
    images, masks, depths = [], [], []
    for cameras in camera_to_world.split(views_at_once):
        fine = trace(spec, cameras, height * supersample, width * supersample)
        images.append(_area_downsample(shade(fine, palette(spec, paint)).permute(0, 3, 1, 2), supersample))
        is_object = (fine.material >= Material.OBJECT).to(fine.diffuse)
        masks.append(_area_downsample(is_object[:, None], supersample)[:, 0])
        depths.append(fine.depth if supersample == 1 else trace(spec, cameras, height, width).depth)
    return RenderedViews(torch.cat(images).permute(0, 2, 3, 1), torch.cat(depths), torch.cat(masks))
