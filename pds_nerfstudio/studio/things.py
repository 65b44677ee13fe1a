"""The objects of studio and what is added to them, as surfaces with the name of their finish; they stand on z = 0."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pds_nerfstudio.studio.spec import StudioSpec, Thing
from pds_nerfstudio.studio.statues import bust, figure
from pds_nerfstudio.studio.surfaces import Surface, bezier_patch, lathe, moved, slab, spline, sweep

Finish = Literal["body", "stem", "petal", "heart", "felt", "ribbon", "cover", "paper"]


@dataclass(frozen=True, eq=False)
class Part:
    """A surface and what it is made of; "body" is the material that the spec names."""

    surface: Surface
    finish: Finish


PROFILES: dict[Thing, list[tuple[float, float]]] = {
    "vase": [
        *((0, 0), (0.27, 0), (0.31, 0), (0.32, 0.02), (0.28, 0.07), (0.34, 0.16), (0.62, 0.44), (0.58, 0.86)),
        *((0.16, 0.92), (0.17, 1.12), (0.21, 1.2), (0.32, 1.25), (0.32, 1.28), (0.28, 1.28), (0.18, 1.2)),
        *((0.13, 1.1), (0.13, 0.92), (0.5, 0.8), (0.55, 0.42), (0.25, 0.1), (0, 0.1)),
    ],
    "bottle": [
        *((0, 0.03), (0.3, 0.03), (0.34, 0), (0.38, 0), (0.39, 0.06), (0.39, 0.5), (0.4, 0.84), (0.3, 0.95)),
        *((0.12, 0.98), (0.11, 1.1), (0.11, 1.3), (0.11, 1.32), (0.155, 1.33), (0.155, 1.33), (0.155, 1.41)),
        *((0.15, 1.42), (0.09, 1.42), (0.085, 1.38), (0.08, 1.0), (0.33, 0.85), (0.34, 0.1), (0, 0.08)),
    ],
    "bowl": [
        *((0, 0.02), (0.26, 0.02), (0.27, 0), (0.31, 0), (0.31, 0.02), (0.28, 0.09), (0.4, 0.1), (0.66, 0.2)),
        *((0.79, 0.44), (0.81, 0.62), (0.82, 0.66), (0.79, 0.67), (0.76, 0.63), (0.73, 0.45), (0.6, 0.24)),
        *((0.35, 0.14), (0, 0.13)),
    ],
    "mug": [
        *((0, 0.02), (0.36, 0.02), (0.38, 0), (0.42, 0), (0.45, 0.02), (0.46, 0.1), (0.45, 0.4), (0.45, 0.75)),
        *((0.465, 0.9), (0.465, 0.95), (0.42, 0.95), (0.415, 0.9), (0.405, 0.7), (0.41, 0.2), (0.4, 0.1), (0, 0.09)),
    ],
    "teapot": [
        *((0, 0.02), (0.32, 0.02), (0.33, 0), (0.38, 0), (0.38, 0.03), (0.36, 0.07), (0.55, 0.14), (0.7, 0.42)),
        *((0.62, 0.76), (0.4, 0.86), (0.35, 0.87), (0.35, 0.91), (0.31, 0.91), (0.31, 0.86), (0, 0.86)),
    ],
}
"""Control points (radius, z) of the profiles that are turned, from the foot over the lip to the inside."""
LID = [
    *((0.305, 0.88), (0.37, 0.9), (0.37, 0.93), (0.3, 0.99), (0.12, 1.03), (0.05, 1.06), (0.05, 1.09), (0.13, 1.12)),
    *((0.13, 1.19), (0.08, 1.23), (0, 1.23)),
]
TOP: dict[Thing, float] = {
    **{"vase": 1.27, "bottle": 1.42, "bowl": 0.66, "mug": 0.94, "teapot": 1.22},
    **{"bust": 1.36, "figure": 1.4, "cheering": 1.4},
}
"""Height in metres; of figures that of their heads."""
SIDE: dict[Thing, float] = {
    **{"vase": 0.53, "bottle": 0.4, "bowl": 0.82, "mug": 0.46, "teapot": 0.62},
    **{"bust": 0.47, "figure": 0.36, "cheering": 0.36},
}
"""How far the object reaches towards a book."""
HAT_INSIDE: dict[Thing, float] = {"teapot": 0.2, "bottle": 0.15, "bust": 0.17, "figure": 0.09, "cheering": 0.09}
"""Metres of the object that are within a hat."""
HAT_SIZE: dict[Thing, float] = {"bust": 1.05, "figure": 0.52, "cheering": 0.52}
"""Factor on a hat."""
GREATEST_TURN = 0.5
"""Radians by which a seed turns an object to either side."""


def _body(thing: Thing) -> list[Surface]:
    match thing:
        case "bust":
            return bust()
        case "figure" | "cheering":
            return figure(raising_arms=thing == "cheering")
    surfaces = [lathe(spline(PROFILES[thing], 220))]
    if thing == "mug":
        handle = spline([(0.42, 0.8), (0.6, 0.84), (0.84, 0.78), (0.84, 0.4), (0.64, 0.2), (0.42, 0.18)], 80)
        thick = 0.058 + 0.02 * np.abs(np.linspace(-1, 1, 80)) ** 3
        surfaces.append(sweep(_upright(handle), thick, across=1.35))
    if thing == "teapot":
        surfaces.append(lathe(spline(LID, 120)))
        spout = spline([(0.45, 0.28), (0.7, 0.3), (0.86, 0.45), (0.88, 0.72), (1.06, 0.88)], 80)
        surfaces.append(sweep(_upright(spout), np.linspace(0.18, 0.078, 80) - 0.03 * _hump(80), wall=0.03))
        handle = spline([(-0.5, 0.74), (-0.7, 0.86), (-0.98, 0.86), (-1.02, 0.5), (-0.84, 0.26), (-0.54, 0.24)], 80)
        surfaces.append(sweep(_upright(handle), 0.055 + 0.02 * np.abs(np.linspace(-1, 1, 80)) ** 3, across=1.3))
    return surfaces


def _upright(curve: np.ndarray) -> np.ndarray:
    """A curve of (x, z) in the plane y = 0."""
    return np.stack([curve[:, 0], np.zeros(len(curve)), curve[:, 1]], axis=-1)


def _hump(samples: int) -> np.ndarray:
    return np.sin(np.linspace(0, np.pi, samples))


def _flower(top: float) -> list[Part]:
    """One bloom on a bent stem that leans on the rim, with two leaves."""
    path = spline([(0.04, 0, top - 0.5), (0, 0, top - 0.1), (-0.06, 0.02, top + 0.2), (0.05, 0.0, top + 0.42)], 60)
    parts = [Part(sweep(path, np.full(60, 0.018)), "stem")]
    head, tilt = path[-1], -0.5
    for ring, (count, length, lift) in enumerate(((9, 0.3, 0.06), (7, 0.22, 0.14))):
        for i in range(count):
            turn = 2 * np.pi * (i + 0.5 * ring) / count
            petal = moved(_petal(length, lift), turn=turn)
            parts.append(Part(moved(petal, by=head, tilt=tilt), "petal"))
    dome = lathe(spline([(0, 0.0), (0.08, 0.0), (0.08, 0.05), (0, 0.07)], 30), segments=48)
    parts.append(Part(moved(dome, by=head, tilt=tilt), "heart"))
    for turn, low in ((0.6, 0.1), (3.4, 0.2)):
        leaf = moved(_petal(0.36, 0.2, width=0.09), turn=turn, by=path[30] + np.array([0, 0, low - 0.1]))
        parts.append(Part(leaf, "stem"))
    return parts


def _petal(length: float, lift: float, width: float = 0.0) -> Surface:
    """A petal or leaf along x that cups upwards, `lift` above its root at the tip."""
    width = width or 0.36 * length
    x = length * np.array([0.08, 0.4, 0.85, 1.0])
    half = width * np.array([0.25, 0.9, 1.2, 0.12])
    z = lift * np.array([0.0, 0.75, 1.0, 0.8])
    y = np.array([-1.0, -0.35, 0.35, 1.0])
    cup = 0.35 * width * np.array([1.0, 0.0, 0.0, 1.0])
    control = np.stack(
        [np.repeat(x[None], 4, 0), y[:, None] * half[None], z[None] + cup[:, None] * half[None] / width], axis=-1
    )
    return bezier_patch(control)


def _hat(thing: Thing) -> list[Part]:
    """A felt hat with a ribbon."""
    brim = [
        (0, 0.0),
        (0.22, 0.0),
        (0.36, 0.0),
        (0.43, 0.05),
        (0.435, 0.065),
        (0.36, 0.03),
        (0.25, 0.025),
        (0.235, 0.03),
    ]
    crown = [(0.235, 0.08), (0.22, 0.24), (0.2, 0.36), (0.12, 0.39), (0.06, 0.33), (0, 0.32)]
    size = HAT_SIZE.get(thing, 1.0)
    felt = lathe(size * spline(brim + crown, 160))
    ribbon = lathe(size * spline([(0.236, 0.035), (0.247, 0.035), (0.247, 0.06), (0.241, 0.11), (0.228, 0.115)], 24))
    by, tilt = (0.0, 0.0, TOP[thing] - HAT_INSIDE.get(thing, 0.0)), 0.1
    return [Part(moved(felt, by=by, tilt=tilt), "felt"), Part(moved(ribbon, by=by, tilt=tilt), "ribbon")]


def _book(side: float) -> list[Part]:
    """A closed book that lies beside the object, in the direction of −y."""
    wide, deep, thick, cover = 0.42, 0.29, 0.17, 0.018
    boards = [
        *slab((-wide, -deep, 0), (wide, deep, cover), 0.006),
        *slab((-wide, -deep, thick - cover), (wide, deep, thick), 0.006),
        *slab((-wide, -deep - 0.012, 0), (wide, -deep + 0.012, thick), 0.011),
    ]
    leaves = slab((-wide + 0.03, -deep, cover), (wide - 0.03, deep - 0.03, thick - cover), 0.004)
    place = {"turn": 0.22, "by": (0.06, -side - deep - 0.16, 0.0)}
    return [Part(moved(s, **place), "cover") for s in boards] + [Part(moved(s, **place), "paper") for s in leaves]


def turn_of(spec: StudioSpec) -> float:
    """Radians by which the object of that seed is turned about the z axis."""
    return GREATEST_TURN * float(np.random.default_rng([spec.seed, 1]).uniform(-1, 1))


def parts_of(spec: StudioSpec) -> list[Part]:
    """The object and what is added to it; the object is the same with and without an addition."""
    parts = [Part(surface, "body") for surface in _body(spec.thing)]
    match spec.addition:
        case "flower":
            parts += _flower(TOP[spec.thing])
        case "hat":
            parts += _hat(spec.thing)
        case "book":
            parts += _book(SIDE[spec.thing])
    turn = turn_of(spec)
    return [Part(moved(part.surface, turn=turn), part.finish) for part in parts]
