"""Smooth surfaces as grids of points: turned on a lathe, swept along a curve, or spanned by Bézier patches.

    S(u, v),  u, v in [0, 1]        sampled as points[i, j] = S(u_j, v_i)

Every surface keeps its two parameters, which are its texture coordinates. Lengths are those of toybox: metres, z up,
objects a little over a metre high, so that both worlds share cameras.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.interpolate import BSpline, RegularGridInterpolator

Array = np.ndarray
Numbers = Sequence[Any] | np.ndarray
"""What numpy makes an array of: a point, or a list of points."""
Points = Float[Array, "rows columns 3"]
Curve = Float[Array, "points coordinates"]
"""Points one after the other, in the plane or in space."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A grid of points. Its outside is where d/du × d/dv points to."""

    points: Points


def spline(control: Numbers, samples: int, degree: int = 3) -> Curve:
    """A clamped uniform B-spline: smooth, inside its control polygon, through its first and last point.

    A control point that is given twice makes a tight bend there, three times a corner.
    """
    points = np.asarray(control, float)
    inner = np.linspace(0, 1, len(points) - degree + 1)
    knots = np.concatenate([[0.0] * degree, inner, [1.0] * degree])
    return BSpline(knots, points, degree)(np.linspace(0, 1, samples))


def lathe(profile: Curve, segments: int = 128) -> Surface:
    """A profile of (radius, z) turned around the z axis.

    Args:
        profile: from the bottom, up the outside, and down the inside if there is one.
    """
    angle = np.linspace(0, 2 * np.pi, segments + 1)[None, :]
    radius, z = (np.repeat(profile[:, i : i + 1], segments + 1, axis=1) for i in (0, 1))
    return Surface(np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1))


def sweep(path: Curve, radii: Float[Array, " points"], across: float = 1.0, wall: float = 0.0) -> Surface:
    """A tube along a curve in space, round or oval, closed at its ends.

    Args:
        path: points of the centre line, [points 3].
        radii: of the tube at every point.
        across: width over height of the cross section; 1 is round.
        wall: thickness of the tube where its far end is open like a spout's; 0 for an end that is closed.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # The frame is carried along without twist: each normal is the last one made perpendicular to the new tangent.
    start = np.cross(tangent[0], [0.0, 1.0, 0.0] if abs(tangent[0][1]) < 0.9 else [1.0, 0.0, 0.0])
    normals = [start / np.linalg.norm(start)]
    for direction in tangent[1:]:
        normal = normals[-1] - direction * (normals[-1] @ direction)
        normals.append(normal / np.linalg.norm(normal))
    end, inward = path[-1], -tangent[-1] * radii[-1]
    if wall:  # over the rim and down the inside
        path = np.concatenate([path, [end - 0.2 * inward, end, end + 2 * inward, end + 2 * inward]])
        radii = np.concatenate([radii, [radii[-1] - wall / 2, radii[-1] - wall, radii[-1] - wall, 0.0]])
    else:
        path = np.concatenate([path, [end]])
        radii = np.concatenate([radii, [0.0]])
    path, radii = np.concatenate([path[:1], path]), np.concatenate([[0.0], radii])
    more = len(path) - 1 - len(normals)
    normal = np.stack([normals[0], *normals, *normals[-1:] * more])
    tangent = np.concatenate([tangent[:1], tangent, np.repeat(tangent[-1:], more, axis=0)])
    side = np.cross(tangent, normal)
    angle = np.linspace(0, 2 * np.pi, 33)
    ring = np.cos(angle)[None, :, None] * normal[:, None] + across * np.sin(angle)[None, :, None] * side[:, None]
    return Surface(path[:, None] + radii[:, None, None] * ring)


def ellipsoid(centre: Numbers, radii: Numbers, samples: int = 40) -> Surface:
    """An ellipsoid along the axes of space."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, samples)
    ball = lathe(np.stack([np.cos(angle), np.sin(angle)], axis=-1), segments=64)
    return Surface(np.asarray(centre, float) + ball.points * np.asarray(radii, float))


def bezier_patch(control: Float[Array, "4 4 3"], samples: int = 24) -> Surface:
    """A bicubic Bézier patch: Σ Bᵢ(v) Bⱼ(u) control[i, j]."""
    t = np.linspace(0, 1, samples)
    basis = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=-1)
    return Surface(np.einsum("ri,cj,ijk->rck", basis, basis, control))


def sheet(corner: Numbers, along: Numbers, up: Numbers) -> Surface:
    """A flat rectangle from a corner and its two sides; its outside is along × up."""
    a, x, y = (np.asarray(v, float) for v in (corner, along, up))
    return Surface(np.array([[a, a + x], [a + y, a + x + y]]))


def slab(low: Numbers, high: Numbers, bevel: float = 0.02) -> list[Surface]:
    """A box between two corners with rounded edges: six sides that meet."""
    centre, half = np.add(low, high) / 2, np.subtract(high, low) / 2
    inner = half - min(bevel, *half)
    zone = np.linspace(0, 1, 5)
    sides = []
    for axis in range(3):
        across, up = (axis + 1) % 3, (axis + 2) % 3
        ticks = [
            np.concatenate([-inner[i] - (half - inner)[i] * zone[::-1], inner[i] + (half - inner)[i] * zone])
            for i in (across, up)
        ]
        for sign in (-1.0, 1.0):
            cube = np.empty((10, 10, 3))
            cube[..., across], cube[..., up] = np.meshgrid(ticks[0][:: int(sign)], ticks[1])
            cube[..., axis] = sign * half[axis]
            core = cube.clip(-inner, inner)
            outward = (cube - core) / np.linalg.norm(cube - core, axis=-1, keepdims=True)
            sides.append(Surface(centre + core + min(bevel, *half) * outward))
    return sides


def moved(surface: Surface, turn: float = 0.0, by: Numbers = (0.0, 0.0, 0.0), tilt: float = 0.0) -> Surface:
    """A surface tilted about the x axis, then turned about the z axis (radians), then shifted."""
    c, s, ct, st = np.cos(turn), np.sin(turn), np.cos(tilt), np.sin(tilt)
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
    return replace(surface, points=surface.points @ matrix.T + np.asarray(by, float))


def positions(surface: Surface, height: int, width: int) -> Float[Array, "height width 3"]:
    """The surface's points under the centres of a texture's pixels, the first row at v = 0."""
    rows, columns = surface.points.shape[:2]
    grid = RegularGridInterpolator((np.linspace(0, 1, rows), np.linspace(0, 1, columns)), surface.points)
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    return grid(np.stack([v, u], axis=-1))


def extent(surface: Surface) -> tuple[float, float]:
    """Length in metres of the longest lines along v and along u."""
    lengths = [np.linalg.norm(np.diff(surface.points, axis=axis), axis=-1).sum(axis).max() for axis in (0, 1)]
    return float(lengths[0]), float(lengths[1])


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with normals and texture coordinates."""

    vertices: Float[Array, "vertices 3"]
    normals: Float[Array, "vertices 3"]
    uv: Float[Array, "vertices 2"]
    faces: Int[Array, "faces 3"]


def mesh(surface: Surface) -> Mesh:
    """Two triangles a cell; normals are smooth over seams and poles."""
    rows, columns = surface.points.shape[:2]
    vertices = surface.points.reshape(-1, 3)
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    corner = vertices[faces]
    area = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    solid = (area**2).sum(-1) > 1e-18
    faces, area = faces[solid], area[solid]
    # Points that coincide, at the seam of a closed surface and at its poles, share one normal.
    _, same = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)
    same = same.ravel()
    total = np.zeros((same.max() + 1, 3))
    for side in range(3):
        np.add.at(total, same[faces[:, side]], area)
    normals = total[same]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return Mesh(vertices, normals, np.stack([u.ravel(), v.ravel()], -1), faces)
