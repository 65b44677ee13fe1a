"""Toybox objects as signed distance functions: metres, z up, the floor at z = 0.

A solid is a tuple of parts, each a primitive with a material; its distance is the smallest of its parts'. Distances are
exact or smaller than the true ones, which is what sphere tracing needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pds_nerfstudio.toybox.spec import Shape

Points = Float[Tensor, "3 points"]
"""Coordinates first: every operation then runs over contiguous memory, several times faster than over rows of three."""
Distances = Float[Tensor, " points"]
Distance = Callable[[Points], Distances]
Vector = tuple[float, float, float]


class Material(IntEnum):
    """What a pixel shows; the renderer's palette has one colour for each."""

    BACKGROUND = 0
    FLOOR = 1
    OBJECT = 2
    SKIN = 3
    HAT = 4


@dataclass(frozen=True)
class Part:
    """One primitive of a solid: `distance` maps points to signed distances, negative inside."""

    distance: Distance
    material: Material = Material.OBJECT


Solid = tuple[Part, ...]

FLOOR_RADIUS = 1.2
BOUND_CENTRE = (0.0, 0.0, 0.85)
BOUND_RADIUS = 1.15


def length(*components: Tensor) -> Distances:
    """Of vectors, by their components; torch's norm along the first axis takes fifty times as long on a CPU."""
    total = components[0].square()
    for component in components[1:]:
        total = total.addcmul(component, component)
    return total.sqrt()


def unit(vectors: Points) -> Points:
    """The same directions, one long."""
    return vectors / length(*vectors).clamp_min(1e-12)


def sphere(centre: Vector, radius: float) -> Distance:
    def distance(p: Points) -> Distances:
        return length(p[0] - centre[0], p[1] - centre[1], p[2] - centre[2]) - radius

    return distance


def box(centre: Vector, half: Vector) -> Distance:
    def distance(p: Points) -> Distances:
        x, y, z = ((p[axis] - centre[axis]).abs() - half[axis] for axis in range(3))
        outside = length(x.clamp_min(0), y.clamp_min(0), z.clamp_min(0))
        return outside + torch.maximum(torch.maximum(x, y), z).clamp_max(0)

    return distance


def cylinder(base: float, height: float, radius: float) -> Distance:
    """Upright, around the z axis, from z = base to z = base + height."""

    def distance(p: Points) -> Distances:
        radial = length(p[0], p[1]) - radius
        axial = (p[2] - (base + height / 2)).abs() - height / 2
        return length(radial.clamp_min(0), axial.clamp_min(0)) + torch.maximum(radial, axial).clamp_max(0)

    return distance


def cone(height: float, radius: float) -> Distance:
    """Upright, standing on the floor with its apex at z = height; a lower bound of the distance near the rim."""
    slant = (height**2 + radius**2) ** 0.5

    def distance(p: Points) -> Distances:
        side = (length(p[0], p[1]) * height + (p[2] - height) * radius) / slant
        return torch.maximum(side, -p[2])

    return distance


def torus(centre: Vector, major: float, minor: float) -> Distance:
    """Standing upright: its axis is the y axis."""

    def distance(p: Points) -> Distances:
        ring = length(p[0] - centre[0], p[2] - centre[2]) - major
        return length(ring, p[1] - centre[1]) - minor

    return distance


def capsule(a: Vector, b: Vector, radius: float) -> Distance:
    axis = tuple(end - start for start, end in zip(a, b, strict=True))
    squared = sum(component**2 for component in axis)

    def distance(p: Points) -> Distances:
        x, y, z = p[0] - a[0], p[1] - a[1], p[2] - a[2]
        along = ((x * axis[0] + y * axis[1] + z * axis[2]) / squared).clamp(0, 1)
        return length(x - along * axis[0], y - along * axis[1], z - along * axis[2]) - radius

    return distance


def mirrored(distance: Distance) -> Distance:
    """The part and its mirror image in the plane x = 0; the part itself lies at x > 0."""
    return lambda p: distance(torch.stack([p[0].abs(), p[1], p[2]]))


def man(arm: tuple[float, float]) -> Solid:
    """A jointed figure facing y; `arm` is the (sideways, upward) direction of an arm, of any length."""
    sideways, upward = (component / (arm[0] ** 2 + arm[1] ** 2) ** 0.5 for component in arm)
    shoulder = (0.24, 0.0, 1.06)
    hand = (shoulder[0] + sideways * 0.5, 0.0, shoulder[2] + upward * 0.5)
    return (
        Part(capsule((0.0, 0.0, 0.72), (0.0, 0.0, 1.0), 0.21)),
        Part(sphere((0.0, 0.0, 1.4), 0.19), Material.SKIN),
        Part(mirrored(capsule((0.12, 0.0, 0.62), (0.17, 0.0, 0.1), 0.1))),
        Part(mirrored(capsule(shoulder, hand, 0.09))),
        Part(mirrored(sphere(hand, 0.11)), Material.SKIN),
    )


def hat(top: float) -> Solid:
    """A brimmed hat that sits on z = top."""
    return (
        Part(cylinder(top, 0.05, 0.34), Material.HAT),
        Part(cylinder(top, 0.32, 0.21), Material.HAT),
    )


_SHAPES: dict[Shape, tuple[Solid, float]] = {
    "ball": ((Part(sphere((0.0, 0.0, 0.55), 0.55)),), 1.06),
    "cube": ((Part(box((0.0, 0.0, 0.45), (0.45, 0.45, 0.45))),), 0.9),
    "cone": ((Part(cone(1.25, 0.6)),), 1.02),
    "can": ((Part(cylinder(0.0, 1.0, 0.42)),), 1.0),
    "flat can": ((Part(cylinder(0.0, 0.4, 0.55)),), 0.4),
    "tall can": ((Part(cylinder(0.0, 1.5, 0.33)),), 1.5),
    "ring": ((Part(torus((0.0, 0.0, 0.6), 0.42, 0.18)),), 1.17),
    "man": (man((0.35, -1.0)), 1.54),
    "man stretching out his arms": (man((1.0, 0.0)), 1.54),
    "man raising his arms": (man((0.45, 1.0)), 1.54),
}


def solid(shape: Shape, with_hat: bool) -> Solid:
    """The parts of an object, its hat included."""
    parts, top = _SHAPES[shape]
    return parts + hat(top) if with_hat else parts


def signed_distance(parts: Solid, points: Points) -> Distances:
    """Distance to the nearest part (metres, negative inside)."""
    nearest = parts[0].distance(points)
    for part in parts[1:]:
        nearest = torch.minimum(nearest, part.distance(points))
    return nearest


def material_at(parts: Solid, points: Points) -> Int[Tensor, " points"]:
    """Material of the nearest part."""
    nearest = torch.stack([part.distance(points) for part in parts]).argmin(dim=0)
    return points.new_tensor([part.material for part in parts], dtype=torch.long)[nearest]


def surface_normal(parts: Solid, points: Points, step: float = 1e-3) -> Points:
    """Unit normals by central differences over a tetrahedron of four evaluations."""
    corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])[:, :, None]
    slopes = [corner * signed_distance(parts, points + step * corner) for corner in corners]
    return unit(torch.stack(slopes).sum(dim=0))
