"""Surfaces of one look as one mesh with one texture: their own textures lie on top of each other in it."""

import numpy as np
from jaxtyping import Float

from pds_nerfstudio.studio.looks import Look, Paint
from pds_nerfstudio.studio.surfaces import Mesh, Surface, extent, mesh, positions

Pixels = Float[np.ndarray, "height width _"]
MARGIN = 2
"""Pixels around each texture that repeat its border, so that no neighbour shines through."""
LARGEST, SMALLEST = 2048, 4
"""Pixels of one surface's texture along a side."""


def atlas(surfaces: list[Surface], look: Look, detail: float = 1.0) -> tuple[Mesh, Pixels | None, Pixels | None]:
    """The joined mesh, and its textures of colour and relief where the look has them.

    Args:
        detail: factor on the density of textures.
    """
    sizes = [
        tuple(int(np.clip(side * look.density * detail, SMALLEST, LARGEST)) for side in extent(surface))
        for surface in surfaces
    ]
    width = max(w for _, w in sizes) + 2 * MARGIN
    height = sum(h + 2 * MARGIN for h, _ in sizes)
    meshes, count, top = [], 0, 0
    for surface, (h, w) in zip(surfaces, sizes, strict=True):
        own = mesh(surface)
        uv = (own.uv * (w, h) + (MARGIN, top + MARGIN)) / (width, height)
        meshes.append(Mesh(own.vertices, own.normals, uv, own.faces + count))
        count, top = count + len(own.vertices), top + h + 2 * MARGIN
    joined = Mesh(
        *(np.concatenate([getattr(m, name) for m in meshes]) for name in ("vertices", "normals", "uv", "faces"))
    )
    colours = _painted(surfaces, sizes, width, look.colour) if callable(look.colour) else None
    relief = _painted(surfaces, sizes, width, look.relief)[..., :1] if look.relief is not None else None
    return joined, colours, relief


def _painted(surfaces: list[Surface], sizes: list[tuple[int, ...]], width: int, paint: Paint) -> Pixels:
    rows = []
    for surface, (h, w) in zip(surfaces, sizes, strict=True):
        pixels = np.clip(paint(positions(surface, h, w)), 0, 1).astype(np.float32)
        rows.append(np.pad(pixels, ((MARGIN, MARGIN), (MARGIN, width - MARGIN - w), (0, 0)), mode="edge"))
    return np.concatenate(rows)
