"""Toybox scenes as vector drawings: what a camera sees, cut into flat regions of equal light.

Every material is a group of nested paths, from its shaded outline to its brightest patch, with highlights on top: some
20 to 50 paths, from nothing but the scene. Drawings of two scenes share the camera, so that an edit's target is known.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from skimage.filters import gaussian
from skimage.measure import approximate_polygon, find_contours

from pds_nerfstudio.toybox.geometry import Material
from pds_nerfstudio.toybox.render import orbit_cameras, palette, trace
from pds_nerfstudio.toybox.spec import SceneSpec

SIZE = 512
BANDS = 16
"""Levels of light of each material."""
HIGHLIGHTS = (0.03, 0.08, 0.16)
"""Thresholds of the highlight that is added to every channel."""
SMALLEST = 20.0
"""Area in square pixels below which a patch is left out."""
CORNER = math.radians(40)
"""Turn of an outline that stays a corner."""

Polygon = Float[np.ndarray, "points 2"]


def draw_scene(spec: SceneSpec, elevation: float = 22.0) -> str:
    """An SVG document of 512 by 512, the object seen from its front; elevation in degrees."""
    camera = orbit_cameras(torch.tensor([math.pi / 2]), torch.tensor([math.radians(elevation)]))
    views = trace(spec, camera, SIZE, SIZE)
    material, light, highlight = (part[0].numpy() for part in (views.material, views.diffuse, views.highlight))
    colours = palette(spec).numpy()
    groups = [f'<rect id="background" width="{SIZE}" height="{SIZE}" fill="{_hex(colours[Material.BACKGROUND])}"/>']
    for kind in list(Material)[1:]:
        shown = material == kind
        if not shown.any():
            continue
        paths = []
        edges = np.quantile(light[shown], np.linspace(0, 1, BANDS + 1))
        for level in range(BANDS):
            band = shown & (light >= edges[level]) & (light <= edges[level + 1])
            if (level and edges[level] - edges[level - 1] < 0.005) or not band.any():
                continue
            region = shown if level == 0 else shown & (light >= edges[level])
            paths.append((region, colours[kind] * light[band].mean()))
        if kind == Material.OBJECT:
            paths += [
                (shown & (highlight > low), colours[kind] * light[shown & (highlight > low)].mean() + low)
                for low in HIGHLIGHTS
                if (shown & (highlight > low)).any()
            ]
        lines = [
            f'<path id="{kind.name.lower()}-{number}" fill="{_hex(colour)}" d="{outline}"/>'
            for number, (region, colour) in enumerate(paths)
            if (outline := _outline(region))
        ]
        groups.append("\n".join([f'<g id="{kind.name.lower()}" fill-rule="evenodd">', *lines, "</g>"]))
    body = "\n".join(groups)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}">\n{body}\n</svg>\n'


def _outline(region: Bool[np.ndarray, "height width"]) -> str:
    """A region's contours as closed paths of cubics."""
    soft = gaussian(np.pad(region, 2).astype(float), sigma=1.5)
    contours = [contour[:, ::-1] - 1.5 for contour in find_contours(soft, 0.5)]
    return " ".join(_smooth(approximate_polygon(c, 1.6)[:-1]) for c in contours if _area(c) >= SMALLEST)


def _area(polygon: Polygon) -> float:
    x, y = polygon.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _smooth(corners: Polygon) -> str:
    """A closed Catmull-Rom spline, which stays sharp at sharp corners."""
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    ahead, behind = after - corners, corners - before
    turn = np.arctan2(ahead[:, 0] * behind[:, 1] - ahead[:, 1] * behind[:, 0], (ahead * behind).sum(axis=1))
    direction = np.where(np.abs(turn)[:, None] > CORNER, 0, (after - before) / 6)
    # Handles no longer than a third of their own side, where sides differ much.
    lengths = np.linalg.norm(ahead, axis=1), np.linalg.norm(behind, axis=1)
    reach = np.maximum(np.linalg.norm(direction, axis=1), 1e-9)
    leaving, arriving = (direction * np.minimum(1, side / 3 / reach)[:, None] for side in lengths)
    words = [f"M{corners[0][0]:.1f} {corners[0][1]:.1f}"]
    for i in range(len(corners)):
        j = (i + 1) % len(corners)
        numbers = (*(corners[i] + leaving[i]), *(corners[j] - arriving[j]), *corners[j])
        words.append("C" + " ".join(f"{number:.1f}" for number in numbers))
    return " ".join([*words, "Z"])


def _hex(colour: Float[np.ndarray, "3"]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * min(max(float(c), 0), 1)) for c in colour))
