"""Where a still life stands: a table by a window, a plinth in a photo studio, a low shelf in a library.

All are seen from all around.

The subject stands on z = 0 at the origin. What shines is a lamp (a rectangle) or the sky, a picture of all directions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from pds_nerfstudio.studio import textures
from pds_nerfstudio.studio.looks import Look
from pds_nerfstudio.studio.spec import Light, Room, StudioSpec
from pds_nerfstudio.studio.surfaces import Surface, lathe, sheet, slab, spline
from pds_nerfstudio.studio.textures import RGB

Vector = tuple[float, float, float]
Finished = list[tuple[Surface, Look]]
"""Surfaces and what they look like."""

FLOOR, CEILING = -2.9, 6.4
WALL = 7.0
"""Distance of the walls from the subject in metres; the window is in the one at −x."""
WINDOW = ((-2.7, 3.1), (0.35, 5.3))
"""Its extent in y and z."""
SKY_SIZE = (256, 512)


@dataclass(frozen=True)
class Lamp:
    """A rectangle that shines to the side its normal (along × up) points to."""

    corner: Vector
    along: Vector
    up: Vector
    radiance: RGB


@dataclass(frozen=True)
class Place:
    """Everything around the subject."""

    surfaces: Finished
    lamps: list[Lamp]
    sky: Float[np.ndarray, "height width 3"] | None = None
    """Radiance from every direction: rows from the zenith to the nadir, columns by azimuth from −180° to 180°."""
    exposure: float = 1.0
    """Factor on radiances before they become a picture."""


@dataclass(frozen=True)
class _Sun:
    """Where the sun stands, and what light comes from it, the sky and the ceiling."""

    azimuth: float
    elevation: float
    strength: float
    colour: RGB
    sky: RGB
    fill: RGB
    exposure: float


SUNS: dict[Light, _Sun] = {
    "soft": _Sun(180, 35, 0, (1, 1, 1), (1.5, 1.56, 1.65), (0.56, 0.55, 0.54), 1.9),
    "sun": _Sun(166, 31, 1250, (1.0, 0.88, 0.7), (0.8, 0.9, 1.1), (0.44, 0.44, 0.46), 1.5),
    "evening": _Sun(196, 21, 900, (1.0, 0.56, 0.24), (0.7, 0.55, 0.58), (0.36, 0.28, 0.25), 1.9),
}


def sky(sun: _Sun) -> Float[np.ndarray, "height width 3"]:
    """The sky beyond the window: black where no window could show it, a sun of 2.5 degrees across."""
    height, width = SKY_SIZE
    elevation = 90 - (np.arange(height)[:, None] + 0.5) * 180 / height
    azimuth = (np.arange(width)[None, :] + 0.5) * 360 / width - 180
    elevation, azimuth = np.broadcast_arrays(elevation, azimuth)
    from_west = np.abs((azimuth + 360) % 360 - 180)
    high = textures.step(-2, 50, elevation)
    colours = textures.blend(np.minimum(np.asarray(sun.sky) * 1.35, 1.5), np.asarray(sun.sky), high)
    garden = np.stack([azimuth / 7, elevation / 4, 0 * azimuth], axis=-1)
    hedge = 7 * textures.fractal(garden, 5, 5) - 3.5
    leaves = textures.blend((0.1, 0.15, 0.07), (0.3, 0.36, 0.2), textures.fractal(garden * 3, 9, 4))
    colours = textures.blend(leaves * np.asarray(sun.sky) * 1.3, colours, textures.step(-0.7, 0.7, elevation - hedge))
    visible = (from_west < 62) & (elevation > -25) & (elevation < 62)
    colours = colours * visible[..., None]
    if sun.strength:
        to_sun = _direction(azimuth, elevation) @ _direction(np.array(sun.azimuth), np.array(sun.elevation))
        disc = 1 - textures.step(1.0, 1.5, np.degrees(np.arccos(to_sun.clip(-1, 1))))
        colours = colours + sun.strength * disc[..., None] * np.asarray(sun.colour)
    return colours.astype(np.float32)


def _direction(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    a, e = np.radians(azimuth), np.radians(elevation)
    return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=-1)


def _all(surfaces: list[Surface], look: Look) -> Finished:
    return [(surface, look) for surface in surfaces]


def _table(seed: int) -> Finished:
    oak = partial(textures.planks, seed=seed, width=0.62, light=(0.52, 0.31, 0.15), dark=(0.27, 0.13, 0.055))
    top = Look(oak, roughness=0.4, lacquer=0.25, density=240)
    plain = Look(partial(textures.wood, seed=seed, light=(0.42, 0.24, 0.11), dark=(0.22, 0.1, 0.045)), roughness=0.5)
    parts = _all(slab((-2.3, -1.86, -0.16), (2.3, 1.86, 0.0), 0.035), top)
    for x in (-1.95, 1.95):
        for y in (-1.55, 1.55):
            parts += _all(slab((x - 0.13, y - 0.13, FLOOR), (x + 0.13, y + 0.13, -0.15), 0.03), plain)
    parts += _all(slab((-1.9, -1.6, -0.5), (1.9, -1.52, -0.15), 0.01), plain)
    return parts + _all(slab((-1.9, 1.52, -0.5), (1.9, 1.6, -0.15), 0.01), plain)


def _wall_with_window(look: Look, white: Look) -> Finished:
    (y0, y1), (z0, z1) = WINDOW
    x, thick = -WALL, 0.35
    parts = []
    for low, high in (
        ((x - thick, -WALL, FLOOR), (x, WALL, z0)),
        ((x - thick, -WALL, z1), (x, WALL, CEILING)),
        ((x - thick, -WALL, z0), (x, y0, z1)),
        ((x - thick, y1, z0), (x, WALL, z1)),
    ):
        parts += _all(slab(low, high, 0.003), look)
    bar = 0.09
    middle, sash = (y0 + y1) / 2, z0 + 0.62 * (z1 - z0)
    for low, high in (
        ((x - 0.25, y0, z0), (x - 0.1, y0 + bar, z1)),
        ((x - 0.25, y1 - bar, z0), (x - 0.1, y1, z1)),
        ((x - 0.25, middle - bar / 2, z0), (x - 0.1, middle + bar / 2, z1)),
        ((x - 0.25, y0, z0), (x - 0.1, y1, z0 + bar)),
        ((x - 0.25, y0, z1 - bar), (x - 0.1, y1, z1)),
        ((x - 0.25, y0, sash - bar / 2), (x - 0.1, y1, sash + bar / 2)),
        (
            (x - 0.35, y0 - 0.2, z0 - 0.09),
            (x + 0.4, y1 + 0.2, z0),
        ),
    ):
        parts += _all(slab(low, high, 0.02), white)
    return parts


def _curtain(y0: float, y1: float, folds: int) -> Surface:
    y, z = np.meshgrid(np.linspace(y0, y1, 40 * folds), np.linspace(FLOOR + 0.1, 5.9, 24))
    wave = np.sin((y - y0) / (y1 - y0) * 2 * np.pi * folds + 0.4 * np.sin(z)) * (0.13 + 0.02 * np.sin(2 * y + z))
    return Surface(np.stack([-WALL + 0.42 + wave, y, z], axis=-1))


def _framed(corner: Vector, wide: Vector, high: float, seed: int) -> Finished:
    """A picture in a wooden frame on a wall."""
    low, side = np.asarray(corner), np.asarray(wide)
    inward = np.cross((0, 0, 1), side) / np.linalg.norm(side)
    canvas = sheet(low + 0.06 * inward, side, np.array((0, 0, high)))
    parts = [(canvas, Look(partial(textures.painting, seed=seed), roughness=0.7, density=120))]
    frame = Look(partial(textures.wood, seed=seed, light=(0.2, 0.11, 0.05), dark=(0.08, 0.04, 0.02)), roughness=0.4)
    unit, rim = side / np.linalg.norm(side), 0.14
    far = low + side + (0, 0, high)
    for a, b in (
        (low - rim * unit - (0, 0, rim), low + side + rim * unit + 0.1 * inward),
        (far + rim * unit + (0, 0, rim), low - rim * unit + (0, 0, high) + 0.1 * inward),
        (low - rim * unit, low + (0, 0, high) + 0.1 * inward),
        (far + rim * unit, low + side + 0.1 * inward),
    ):
        parts += _all(slab(np.minimum(a, b), np.maximum(a, b), 0.025), frame)
    return parts


def table_by_a_window(spec: StudioSpec) -> Place:
    """An oak table in a living room, lit through a window at −x and, weakly, from the ceiling."""
    seed, sun = 100 * spec.seed + 3, SUNS[spec.light]
    wall = Look(partial(textures.plaster, seed=seed, colour=(0.7, 0.68, 0.61)), roughness=0.9, density=60)
    accent = Look(partial(textures.plaster, seed=seed + 1, colour=(0.27, 0.38, 0.37)), roughness=0.9, density=60)
    boards = partial(
        textures.planks, seed=seed + 2, width=0.55, light=(0.34, 0.2, 0.1), dark=(0.16, 0.08, 0.035), length=3.1
    )
    floor = Look(boards, roughness=0.45, lacquer=0.15, density=110)
    white = Look((0.75, 0.74, 0.71), roughness=0.4, lacquer=0.2)
    cloth = Look(partial(textures.woven, seed=seed + 5, colour=(0.55, 0.47, 0.36), threads=14.0), roughness=1.0)
    side = 2 * WALL
    surfaces = [
        *_table(seed + 7),
        (sheet((-WALL, -WALL, FLOOR), (side, 0, 0), (0, side, 0)), floor),
        (sheet((-WALL, WALL, CEILING), (side, 0, 0), (0, -side, 0)), white),
        (sheet((WALL, -WALL, FLOOR), (0, side, 0), (0, 0, CEILING - FLOOR)), accent),
        (sheet((-WALL, -WALL, FLOOR), (side, 0, 0), (0, 0, CEILING - FLOOR)), wall),
        (sheet((WALL, WALL, FLOOR), (-side, 0, 0), (0, 0, CEILING - FLOOR)), wall),
        *_wall_with_window(wall, white),
        (_curtain(-4.6, -2.6, 7), cloth),
        (_curtain(3.0, 5.0, 7), cloth),
        *_framed((-1.6, -WALL, 0.1), (3.2, 0, 0), 2.3, seed + 8),
        *_framed((WALL, -2.4, 0.3), (0, 2.0, 0), 2.7, seed + 9),
        *_framed((WALL, 0.6, 0.6), (0, 2.0, 0), 2.1, seed + 10),
        *_framed((2.0, WALL, -0.1), (-3.4, 0, 0), 2.5, seed + 12),
    ]
    for low, high in (((-WALL, -WALL), (WALL, -WALL + 0.08)), ((-WALL, WALL - 0.08), (WALL, WALL))):
        surfaces += _all(slab((*low, FLOOR), (*high, FLOOR + 0.4), 0.02), white)
    surfaces += _all(slab((WALL - 0.08, -WALL, FLOOR), (WALL, WALL, FLOOR + 0.4), 0.02), white)
    rug = Look(partial(_rug, seed=seed), roughness=1.0, density=110)
    surfaces += _all(slab((-4.2, -3.3, FLOOR), (4.2, 3.3, FLOOR + 0.05), 0.02), rug)
    lamp = Lamp((-5, 5, CEILING - 0.02), (10, 0, 0), (0, -10, 0), sun.fill)
    return Place(surfaces, [lamp], sky(sun), sun.exposure)


def _rug(points: textures.Points, seed: int) -> textures.Colours:
    """A rug with a border and rows of diamonds."""
    x, y = points[..., 0], points[..., 1]
    inside = np.minimum(4.2 - np.abs(x), 3.3 - np.abs(y))
    diamond = np.abs((x / 0.9) % 1 - 0.5) + np.abs((y / 0.9) % 1 - 0.5)
    field = textures.blend((0.3, 0.06, 0.05), (0.5, 0.4, 0.26), textures.step(0.3, 0.26, diamond) * 1.0)
    field = textures.blend(field, (0.04, 0.07, 0.16), 1 - textures.step(0.09, 0.12, diamond))
    border = textures.blend((0.04, 0.07, 0.16), (0.5, 0.4, 0.26), textures.step(0.06, 0.04, np.abs(inside - 0.3)))
    colours = np.where((inside > 0.5)[..., None], field, border)
    wool = textures.noise(points * (30, 30, 1), seed) * 0.35 + textures.fractal(points * 0.8, seed, 3) * 0.5
    return colours * (0.55 + wool)[..., None]


def photo_studio(spec: StudioSpec) -> Place:
    """A round plinth in a cyclorama, whose floor rises into a wall all around, under large lamps."""
    seed = 100 * spec.seed + 3
    profile = spline([(9.5, 9.0), (9.4, 2.0), (9.2, -1.0), (7.0, -1.6), (4.0, -1.6), (0, -1.6)], 120)
    tones: dict[Light, RGB] = {"soft": (0.42, 0.43, 0.45), "sun": (0.5, 0.44, 0.36), "evening": (0.26, 0.29, 0.38)}
    canvas = Look(
        partial(textures.plaster, seed=seed, colour=tones[spec.light], strength=0.3), roughness=0.95, density=60
    )
    rim = spline([(1.9, -1.6), (1.9, -1.5), (1.9, -0.1), (1.9, 0.0), (1.9, 0.0), (1.8, 0), (0, 0.0)], 160)
    stone = Look(
        partial(textures.marble, seed=seed + 4, ground=(0.2, 0.19, 0.18), vein=(0.5, 0.46, 0.4)),
        roughness=0.35,
        lacquer=0.25,
        density=240,
    )
    surfaces = [(lathe(profile), canvas), (lathe(rim, 192), stone)]
    match spec.light:
        case "soft":
            lamps = [
                Lamp((-4, 4, 7.5), (8, 0, 0), (0, -8, 0), (2.6, 2.6, 2.6)),
                Lamp((-7, -1.8, 3.2), (0, 3.6, 0), (1.8, 0, 3.2), (3.2, 3.3, 3.5)),
            ]
        case "sun":
            lamps = [
                Lamp((-5.4, -4.4, 6.4), (0.8, -0.9, 0), (0.6, 0.5, 0.9), (270, 240, 190)),
                Lamp((-4, 4, 8), (8, 0, 0), (0, -8, 0), (0.9, 1.0, 1.2)),
            ]
        case "evening":
            lamps = [
                Lamp((-6.2, -2.6, 3.0), (0.4, 1.8, 0), (1.0, 0, 1.9), (30, 17, 8)),
                Lamp((6.4, 2.5, 3.2), (0, -4, 0), (-1.5, 0, 3.0), (0.9, 1.3, 2.2)),
                Lamp((-4, 4, 8), (8, 0, 0), (0, -8, 0), (0.35, 0.37, 0.42)),
            ]
    # The studio is open at the top: a dim sky closes it.
    dim = np.full((*SKY_SIZE, 3), 0.25, np.float32)
    return Place(surfaces, lamps, dim, exposure=1.35 if spec.light == "evening" else 1.0)


SHELF_ROW = 1.9
"""Height in metres of a row of books on the library's walls."""


def _bookcase(low: Vector, along: Vector, inward: Vector, books: Look, wood: Look) -> Finished:
    """Books on a wall from the floor to the ceiling, with boards in front of their feet, and posts."""
    start, side, deep = np.asarray(low), np.asarray(along), 0.45 * np.asarray(inward)
    up, high = np.array((0, 0, 1)), np.array((0, 0, CEILING - FLOOR))
    parts: Finished = [(sheet(start + deep, side, high), books)]
    rows = np.arange(np.ceil(FLOOR / SHELF_ROW), CEILING / SHELF_ROW) * SHELF_ROW
    for z in rows:
        a, b = start + (z - FLOOR - 0.09) * up, start + side + 1.35 * deep + (z - FLOOR + 0.03) * up
        parts += _all(slab(np.minimum(a, b), np.maximum(a, b), 0.01), wood)
    unit = side / np.linalg.norm(side)
    for share in np.linspace(0, 1, 6):
        a, b = start + share * side - 0.08 * unit, start + share * side + 0.08 * unit + 1.4 * deep + high
        parts += _all(slab(np.minimum(a, b), np.maximum(a, b), 0.01), wood)
    return parts


def _low_shelf(seed: int, white: Look, books: Look) -> Finished:
    """A white shelf that stands free in the room, with books in its two open sides."""
    x, y = 2.15, 1.8
    parts = _all(slab((-x, -y, -0.1), (x, y, 0.0), 0.025), white)
    parts += _all(slab((-x, -y, FLOOR), (x, y, FLOOR + 0.25), 0.02), white)
    for post in np.linspace(-x + 0.06, x - 0.06, 4):
        parts += _all(slab((post - 0.06, -y + 0.02, FLOOR + 0.2), (post + 0.06, y - 0.02, -0.08), 0.01), white)
    parts += _all(slab((-x + 0.02, -y + 0.04, -1.43), (x - 0.02, y - 0.04, -1.31), 0.01), white)
    for side in (-1, 1):
        along = (-side * 2 * (x - 0.1), 0, 0)
        parts.append((sheet((side * (x - 0.1), side * (y - 0.25), FLOOR + 0.25), along, (0, 0, -FLOOR - 0.35)), books))
    return parts


def shelf_in_a_library(spec: StudioSpec) -> Place:
    """A low white shelf between walls full of books; light comes from the ceiling or from a lamp at −x."""
    seed = 100 * spec.seed + 3
    spines = Look(partial(textures.books, seed=seed, row=SHELF_ROW), roughness=0.7, density=70)
    near = Look(partial(textures.books, seed=seed + 1, row=1.4), roughness=0.7, density=90)
    walnut = Look((0.15, 0.075, 0.035), roughness=0.4)
    white = Look((0.72, 0.71, 0.68), roughness=0.3, lacquer=0.4)
    carpet = Look(
        partial(textures.plaster, seed=seed + 2, colour=(0.09, 0.16, 0.12), strength=0.3), roughness=1.0, density=60
    )
    side = 2 * WALL
    surfaces: Finished = [
        *_low_shelf(seed, white, near),
        (sheet((-WALL, -WALL, FLOOR), (side, 0, 0), (0, side, 0)), carpet),
        (sheet((-WALL, WALL, CEILING), (side, 0, 0), (0, -side, 0)), white),
    ]
    for corner, along, inward in (
        ((-WALL, -WALL, FLOOR), (side, 0, 0), (0, 1, 0)),
        ((WALL, -WALL, FLOOR), (0, side, 0), (-1, 0, 0)),
        ((WALL, WALL, FLOOR), (-side, 0, 0), (0, -1, 0)),
        ((-WALL, WALL, FLOOR), (0, -side, 0), (1, 0, 0)),
    ):
        surfaces += _bookcase(corner, along, inward, spines, walnut)
    match spec.light:
        case "soft":
            lamps = [Lamp((-3, 3, CEILING - 0.02), (6, 0, 0), (0, -6, 0), (3.2, 3.2, 3.1))]
        case "sun":
            lamps = [
                Lamp((-4.5, 2.2, CEILING - 0.03), (0.7, 0, 0), (0, -0.7, 0), (330, 285, 220)),
                Lamp((-3, 3, CEILING - 0.02), (6, 0, 0), (0, -6, 0), (0.8, 0.9, 1.1)),
            ]
        case "evening":
            lamps = [
                Lamp((-5.6, -2.2, 2.0), (0.2, 1.4, 0), (0.5, 0, 1.6), (46, 25, 10)),
                Lamp((-3, 3, CEILING - 0.02), (6, 0, 0), (0, -6, 0), (0.35, 0.3, 0.28)),
            ]
    return Place(surfaces, lamps, exposure=1.5 if spec.light == "evening" else 1.2)


PLACES: dict[Room, Callable[[StudioSpec], Place]] = {
    "table": table_by_a_window,
    "backdrop": photo_studio,
    "shelf": shelf_in_a_library,
}


def place_of(spec: StudioSpec) -> Place:
    """The room and the light of a scene."""
    return PLACES[spec.room](spec)
