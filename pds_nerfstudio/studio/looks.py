"""What surfaces look like: colour, roughness, metal or not, lacquer, fine relief; as numbers and textures of numpy.

The parameters are those of the "principled" model (Burley 2012, "Physically based shading at Disney").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pds_nerfstudio.studio import textures
from pds_nerfstudio.studio.spec import Material, StudioSpec
from pds_nerfstudio.studio.textures import RGB, Colours, Points
from pds_nerfstudio.studio.things import TOP, Finish

Paint = Callable[[Points], Colours]
"""A colour, linear RGB in [0, 1], of every point in space."""


@dataclass(frozen=True)
class Look:
    """How a surface scatters light."""

    colour: RGB | Paint
    """Linear RGB in [0, 1], one for all or by place."""
    roughness: float = 0.5
    metallic: float = 0.0
    anisotropic: float = 0.0
    """How much longer highlights are across the texture's u than along it, in [0, 1]."""
    lacquer: float = 0.0
    """Strength of a clear glossy layer, in [0, 1]."""
    relief: Paint | None = None
    """Height of bumps by place; only the first channel counts."""
    depth: float = 0.0
    """Of the relief in metres."""
    density: float = 280
    """Pixels a metre of the texture that the colour is baked into; a 512-pixel view shows about 250 at the object."""


PAINTS: dict[Material, RGB] = {
    "red": (0.52, 0.025, 0.02),
    "yellow": (0.78, 0.46, 0.02),
    "green": (0.03, 0.22, 0.07),
    "blue": (0.02, 0.08, 0.36),
    "white": (0.78, 0.77, 0.73),
}
"""Linear RGB of the painted colours."""


GRAIN = (0.62, 0.37, 0.69)
"""Along which wooden objects are cut: across the rings, so that they show."""


def _painted(colour: RGB, seed: int) -> Look:
    def paint(points: Points) -> Colours:
        return textures.plaster(points * 2.5, seed, colour, 0.12)

    return Look(paint, roughness=0.2, lacquer=0.8)


def body(spec: StudioSpec) -> Look:
    """The object's own material."""
    seed, top = 1000 * spec.seed + 11, TOP[spec.thing]
    match spec.material:
        case "wooden":
            return Look(
                lambda p: textures.wood(p, seed, (0.52, 0.29, 0.12), (0.2, 0.085, 0.03), GRAIN, rings=9.0),
                roughness=0.35,
                lacquer=0.4,
            )
        case "marble":
            return Look(lambda p: textures.marble(p, seed), roughness=0.14, lacquer=0.6)
        case "metal":

            def brushed(points: Points) -> Colours:
                radius = np.linalg.norm(points[..., :2], axis=-1)
                scratch = textures.noise(np.stack([radius * 220, points[..., 2] * 260, 0 * radius], -1), seed)
                worn = textures.fractal(points * 2, seed + 3, 4)
                return textures.blend((0.58, 0.54, 0.49), (0.88, 0.85, 0.8), 0.55 * scratch + 0.45 * worn)

            return Look(brushed, roughness=0.34, metallic=1.0, anisotropic=0.75)
        case "ceramic":
            return Look(
                lambda p: textures.glaze(p, seed, top, (0.015, 0.1, 0.17), (0.66, 0.55, 0.38)),
                roughness=0.13,
                lacquer=1.0,
            )
        case colour:
            return _painted(PAINTS[colour], seed)


def look_of(finish: Finish, spec: StudioSpec) -> Look:
    """How a part of the object or of its addition looks."""
    seed = 1000 * spec.seed + 511
    match finish:
        case "body":
            return body(spec)
        case "stem":
            return Look((0.05, 0.16, 0.03), roughness=0.6)
        case "petal":
            return Look(
                lambda p: textures.blend((0.78, 0.16, 0.3), (0.86, 0.55, 0.6), textures.fractal(p * (9, 9, 3), seed)),
                roughness=0.7,
            )
        case "heart":
            return Look((0.75, 0.42, 0.03), roughness=0.8)
        case "felt":
            return Look(
                lambda p: textures.plaster(p * 3, seed, (0.055, 0.05, 0.06), 0.25),
                roughness=0.95,
                relief=lambda p: textures.noise(p * 90, seed)[..., None] * np.ones(3),
                depth=0.003,
            )
        case "ribbon":
            return Look((0.4, 0.05, 0.05), roughness=0.4)
        case "cover":
            return Look(lambda p: textures.plaster(p * 4, seed, (0.3, 0.045, 0.035), 0.25), roughness=0.45)
        case "paper":
            return Look(
                lambda p: textures.blend((0.5, 0.44, 0.33), (0.78, 0.73, 0.62), textures.noise(p * (1, 1, 160), seed)),
                roughness=0.9,
            )
