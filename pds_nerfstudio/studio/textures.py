"""Procedural textures: functions of points in space, in metres, so that patterns run through an object without a seam.

Colours are linear RGB in [0, 1].
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates

Array = np.ndarray
Points = Float[Array, "*grid 3"]
Scalars = Float[Array, "*grid"]
Colours = Float[Array, "*grid 3"]
RGB = tuple[float, float, float]

LATTICE = 48
"""Cells of noise after which it repeats."""


@functools.lru_cache(maxsize=64)
def _lattice(seed: int) -> Array:
    return np.random.default_rng([seed, 7]).random((LATTICE,) * 3)


def noise(points: Points, seed: int) -> Scalars:
    """Value noise in [0, 1] with one random value at every whole point, smooth between them."""
    cell = np.floor(points)
    part = points - cell
    part = part * part * (3 - 2 * part)
    places = np.moveaxis(cell + part, -1, 0)
    return map_coordinates(_lattice(seed), places, order=1, mode="grid-wrap")


def fractal(points: Points, seed: int, octaves: int = 5) -> Scalars:
    """Noise of several scales, each half as strong and half as large as the one before; in [0, 1], around 0.5."""
    total, weight = np.zeros(points.shape[:-1]), 0.0
    for octave in range(octaves):
        total += noise(points * 2.03**octave + 17.3 * octave, seed + octave) / 2**octave
        weight += 1 / 2**octave
    return total / weight


def blend(low: Sequence[float] | Array, high: Sequence[float] | Array, share: Scalars) -> Colours:
    """From `low` at share 0 to `high` at share 1; each is one colour or one for every point."""
    share = np.clip(share, 0, 1)[..., None]
    return np.asarray(low) * (1 - share) + np.asarray(high) * share


def step(low: float | Scalars, high: float | Scalars, values: Scalars) -> Scalars:
    """A smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def wood(
    points: Points, seed: int, light: RGB, dark: RGB, grain: Sequence[float] = (0, 0, 1), rings: float = 19.0
) -> Colours:
    """Year rings around an axis beside the piece, distorted, with fine fibres along it.

    Args:
        grain: unit vector along the trunk.
        rings: a metre.
    """
    axis = np.asarray(grain, float)
    rng = np.random.default_rng([seed, 3])
    along = points @ axis
    off_axis = points - along[..., None] * axis + np.cross(axis, rng.uniform(0.3, 0.6, 3) * (1, -1, 1))
    slow = off_axis * 2.2 + 0.5 * along[..., None] * axis
    radius = np.linalg.norm(off_axis, axis=-1) + 0.18 * (fractal(slow, seed, 3) - 0.5)
    phase = (radius * rings) % 1
    ring = step(0.0, 0.75, phase) * (1 - step(0.88, 1.0, phase))
    fibres = noise(off_axis * 90 + along[..., None] * axis * 2.5, seed + 31)
    pores = step(0.76, 0.9, noise(off_axis * 130 + along[..., None] * axis * 5, seed + 37))
    tone = fractal(points * 1.3, seed + 41, 3)
    colours = blend(light, dark, 0.75 * ring + 0.35 * (fibres - 0.5) + 0.5 * (tone - 0.5))
    return colours * (1 - 0.45 * pores[..., None])


def marble(points: Points, seed: int, ground: RGB = (0.8, 0.78, 0.74), vein: RGB = (0.2, 0.21, 0.24)) -> Colours:
    """Veins where distorted noise passes its middle: a few broad ones, many hair-thin."""
    bent = points + 0.55 * np.stack([fractal(points * 1.7 + s, seed + i, 4) for i, s in enumerate((0, 5, 9))], -1)
    cloud = fractal(bent * 1.4, seed + 11, 5)
    broad = 1 - step(0.0, 0.075, np.abs(fractal(bent * 1.25, seed + 21, 6) - 0.5))
    thin = 1 - step(0.0, 0.022, np.abs(fractal(bent * 2.6, seed + 23, 5) - 0.52))
    fade = step(0.3, 0.7, fractal(points * 1.9, seed + 25, 3))
    share = 0.75 * broad * fade + 0.5 * thin * (1 - 0.5 * fade) + 0.35 * step(0.5, 0.75, cloud)
    return blend(ground, vein, share)


def glaze(points: Points, seed: int, top: float, over: RGB, under: RGB) -> Colours:
    """A dark glaze that has run down over a light one, from the lip at z = `top`, with speckles below.

    Where it is thin, at its edge, it breaks into a warm brown.
    """
    around = points * (1, 1, 0.25)
    drip = 0.55 * (fractal(around * 3.2, seed, 4) - 0.5) + 0.1 * (noise(around * 9, seed + 5) - 0.5)
    depth = points[..., 2] / top - 0.5 + drip
    thick = step(-0.01, 0.03, depth)
    edge = thick * (1 - step(0.02, 0.1, depth))
    mottled = blend(over, np.asarray(over) * (0.45, 0.6, 0.75), fractal(points * 7, seed + 9, 4) * 1.6 - 0.4)
    mottled = blend(mottled, (0.34, 0.17, 0.06), 0.8 * edge)
    cream = blend(under, np.asarray(under) * (0.86, 0.8, 0.7), fractal(points * 4, seed + 13, 4) * 2 - 0.6)
    speckles = step(0.83, 0.87, noise(points * 42, seed + 17))
    cream = blend(cream, (0.2, 0.12, 0.06), 0.85 * speckles)
    return blend(cream, mottled, thick)


def planks(
    points: Points, seed: int, width: float, light: RGB, dark: RGB, length: float = 1e6, gap: float = 0.006
) -> Colours:
    """Boards along x in the plane z = 0, each cut from another tree, with dark joints.

    Args:
        width, length, gap: of boards and joints, in metres.
    """
    row = np.floor(points[..., 1] / width)
    shift = 0.37 * length * (row % 3) if length < 1e5 else 0.0
    column = np.floor((points[..., 0] + shift) / length)
    identity = row * 3.7 + column * 11.9
    moved = points + np.stack([identity * 5.3, identity * 0.71, 0.2 * np.sin(identity * 2.1)], axis=-1)
    moved[..., 1] = (points[..., 1] - row * width) + 0.3 * np.sin(identity * 1.7)
    colours = wood(moved, seed, light, dark, grain=(1, 0, 0))
    tone = 0.82 + 0.36 * ((np.sin(identity * 12.9898) * 43758.5) % 1)
    from_edge = np.minimum(points[..., 1] / width % 1, 1 - points[..., 1] / width % 1) * width
    if length < 1e5:
        share = (points[..., 0] + shift) / length % 1
        from_edge = np.minimum(from_edge, np.minimum(share, 1 - share) * length)
    joint = 1 - step(gap / 2, gap, from_edge)
    return colours * tone[..., None] * (1 - 0.8 * joint[..., None])


def woven(points: Points, seed: int, colour: RGB, threads: float = 90.0) -> Colours:
    """Linen in the plane z = 0: two sets of threads of uneven thickness; threads a metre."""
    x, y = points[..., 0] * threads, points[..., 1] * threads
    over = (np.floor(x) + np.floor(y)) % 2
    thread = np.where(over > 0, np.abs(np.sin(np.pi * x)), np.abs(np.sin(np.pi * y)))
    slub = noise(points * (threads / 3, 3, 1), seed) + noise(points * (3, threads / 3, 1), seed + 1)
    return np.asarray(colour) * (0.7 + 0.25 * thread + 0.15 * (slub - 1))[..., None]


def plaster(points: Points, seed: int, colour: RGB, strength: float = 0.1) -> Colours:
    """A painted wall or canvas: large soft clouds and a fine grain, `strength` of its colour."""
    clouds = fractal(points * 0.9, seed, 5) - 0.5
    grain = noise(points * 35, seed + 3) - 0.5
    return np.clip(np.asarray(colour) * (1 + 2.4 * strength * clouds + 0.6 * strength * grain)[..., None], 0, 1)


def books(points: Points, seed: int, row: float, thickness: float = 0.5) -> Colours:
    """Backs of books in rows on dark shelves, in any upright plane along x or y.

    Args:
        row: height of a shelf in metres.
        thickness: of a book at most, in metres.
    """
    leather = np.array(
        [(0.2, 0.07, 0.05), (0.07, 0.1, 0.15), (0.09, 0.13, 0.09), (0.3, 0.25, 0.17), (0.22, 0.13, 0.07)]
    )
    along, shelf = points[..., 0] + points[..., 1], np.floor(points[..., 2] / row)
    # A book is a cell of bent ground, so that some are thin and others thick.
    place = along / thickness + 0.5 * np.sin(1.1 * along + 2.1 * shelf) + 13.7 * shelf
    book, within = np.floor(place), place % 1
    chance = (np.sin(book * 12.9898 + shelf * 78.233 + seed * 3.7) * 43758.5) % 1
    other = (chance * 91.7) % 1
    colours = leather[(chance * len(leather)).astype(int) % len(leather)] * (0.75 + 0.5 * other)[..., None]
    colours = colours * (0.55 + 0.45 * np.sin(np.pi * within))[..., None]
    top = row * (0.74 + 0.16 * other)
    return blend(colours, (0.025, 0.018, 0.012), step(top - 0.02, top + 0.02, points[..., 2] - row * shelf))


def painting(points: Points, seed: int) -> Colours:
    """An abstract landscape in bands of colour, for a frame on a wall; any plane that contains the z axis."""
    palette = np.array([(0.05, 0.13, 0.2), (0.1, 0.3, 0.33), (0.72, 0.42, 0.1), (0.75, 0.66, 0.5), (0.45, 0.1, 0.06)])
    rng = np.random.default_rng([seed, 5])
    level = points[..., 2] * 1.1 + 1.3 * (fractal(points * 0.8, seed, 4) - 0.5) + rng.uniform(0, 5)
    shade = fractal(points * (6, 6, 1.5), seed + 5, 3)
    low = np.floor(level).astype(int)
    chosen = blend(palette[low % 5], palette[(low + 1) % 5], step(0.4, 0.6, level - low))
    return chosen * (0.7 + 0.6 * shade)[..., None]
