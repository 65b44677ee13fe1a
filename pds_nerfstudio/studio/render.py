"""Renders studio scenes by path tracing, with exact depth and masks, from toybox's cameras."""

import functools
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.studio import mitsuba as backend
from pds_nerfstudio.studio.looks import look_of
from pds_nerfstudio.studio.rooms import place_of
from pds_nerfstudio.studio.spec import Light, Room, StudioSpec
from pds_nerfstudio.studio.things import parts_of
from pds_nerfstudio.toybox.render import FIELD_OF_VIEW, camera_rays

FULL_DETAIL = 384
"""Height in pixels of pictures that show textures at their own density."""
GUIDE_SAMPLES = 12
"""Rays a pixel of the albedo and the normals that guide the denoiser."""
BOUNCES, ROULETTE = 6, 4
"""Length of the longest path, and where paths begin to end at random."""
MASK_SAMPLES = 3
"""A side of the grid of rays in a pixel whose hits are its share of the object."""
TOLERANCE = 1e-3
"""Metres by which two hits of one surface may differ."""
ROOMS_KEPT = 3
"""Rooms that stay in memory once they are built."""


class Studio:
    """A scene that is built once and rendered from many cameras.

    Args:
        threads: of Mitsuba; 0 for as many as there are cores.
        detail: factor on the density of textures.

    Raises:
        UserError: Mitsuba is not installed.
    """

    def __init__(self, spec: StudioSpec, threads: int = 0, detail: float = 1.0) -> None:
        self._mi = mi = backend.load()
        backend.use_threads(threads)
        place = place_of(spec)
        parts = parts_of(spec)
        looks = {part.finish: look_of(part.finish, spec) for part in parts}
        subject = backend.shapes(mi, [(part.surface, looks[part.finish]) for part in parts], detail)
        around = {f"room_{name}": shape for name, shape in _room(spec.room, spec.light, spec.seed, detail).items()}
        lamps = {f"lamp_{i}": backend.rectangle(mi, lamp) for i, lamp in enumerate(place.lamps)}
        if place.sky is not None:
            # Mitsuba's picture has y up, begins at −z, and turns the other way.
            to_world = mi.ScalarTransform4f(np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
            pixels = np.ascontiguousarray(place.sky[:, ::-1])
            lamps["sky"] = {"type": "envmap", "bitmap": mi.Bitmap(pixels), "to_world": to_world}
        self._scene = mi.load_dict({"type": "scene"} | subject | around | lamps)
        self._subject = mi.load_dict({"type": "scene"} | subject)
        self._exposure = place.exposure

    def photograph(
        self, camera: Float[Tensor, "3 4"], size: int, samples: int, denoise: bool = True, seed: int = 0
    ) -> Float[Tensor, "height width 3"]:
        """sRGB in [0, 1] from one camera (OpenGL, camera to world)."""
        sensor = self._sensor(camera, size)
        paths = {"type": "path", "max_depth": BOUNCES, "rr_depth": ROULETTE}
        colours = self._layers(paths, sensor, samples, seed) * self._exposure
        if denoise:
            first = {"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}
            guides = self._layers(first, sensor, GUIDE_SAMPLES, seed)
            colours = denoised(colours, guides[..., :3], guides[..., 3:6])
        return torch.from_numpy(developed(colours))

    def _layers(
        self, integrator: dict[str, Any], sensor: Any, samples: int, seed: int
    ) -> Float[np.ndarray, "height width channels"]:
        kind = self._mi.load_dict(integrator)
        layers = self._mi.render(self._scene, sensor=sensor, integrator=kind, spp=samples, seed=seed)
        return np.nan_to_num(np.array(layers, dtype=np.float32))

    def geometry(
        self, camera: Float[Tensor, "3 4"], size: int
    ) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
        """Depth along the optical axis at pixel centres (metres, 0 where there is only sky), and the object's share."""
        depth = _first_hits(self._mi, self._scene, camera, size)
        fine = size * MASK_SAMPLES
        nearest, own = (_first_hits(self._mi, scene, camera, fine) for scene in (self._scene, self._subject))
        shown = (own > 0) & (own <= nearest + TOLERANCE)
        share = torch.nn.functional.avg_pool2d(shown[None].float(), MASK_SAMPLES)[0]
        return depth, share

    def _sensor(self, camera: Float[Tensor, "3 4"], size: int) -> Any:
        # Mitsuba's cameras look along z with x to the left.
        matrix = np.eye(4)
        matrix[:3] = camera.double().numpy() * np.array([-1.0, 1.0, -1.0, 1.0])
        return self._mi.load_dict(
            {
                "type": "perspective",
                "fov": math.degrees(FIELD_OF_VIEW),
                "to_world": self._mi.ScalarTransform4f(matrix),
                "film": {"type": "hdrfilm", "width": size, "height": size, "rfilter": {"type": "box"}},
                "sampler": {"type": "independent"},
            }
        )


@functools.lru_cache(maxsize=ROOMS_KEPT)
def _room(room: Room, light: Light, seed: int, detail: float) -> dict[str, Any]:
    """The shapes around a subject, which scenes of one seed share: dearer to build than the subject."""
    place = place_of(StudioSpec(room=room, light=light, seed=seed))
    return backend.shapes(backend.load(), place.surfaces, detail)


def _first_hits(mi: Any, scene: Any, camera: Float[Tensor, "3 4"], size: int) -> Float[Tensor, "height width"]:
    """Depth along the optical axis at pixel centres; 0 where nothing is hit."""
    origins, directions = (rays[0].double().numpy() for rays in camera_rays(camera[None], size, size))
    lengths = np.linalg.norm(directions, axis=1)
    if mi.variant().startswith("scalar"):
        hits = [
            scene.ray_intersect_preliminary(mi.Ray3f(list(o), list(d / n))).t
            for o, d, n in zip(origins, directions, lengths, strict=True)
        ]
        distance = np.array(hits)
    else:
        unit = directions / lengths[:, None]
        ray = mi.Ray3f(mi.Point3f(*origins.T.astype(np.float32)), mi.Vector3f(*unit.T.astype(np.float32)))
        distance = np.array(scene.ray_intersect_preliminary(ray, coherent=True).t)
    depth = np.where(np.isfinite(distance), distance / lengths, 0.0)
    return torch.from_numpy(depth.astype(np.float32)).reshape(size, size)


def denoised(
    colours: Float[np.ndarray, "height width 3"],
    albedo: Float[np.ndarray, "height width 3"],
    normals: Float[np.ndarray, "height width 3"],
) -> Float[np.ndarray, "height width 3"]:
    """Radiances without the noise of path tracing, by Intel's Open Image Denoise; see `load_denoiser`."""
    layers = (np.ascontiguousarray(layer) for layer in (colours, albedo.clip(0, 1), normals.clip(-1, 1)))
    colours, albedo, normals = layers
    return load_denoiser().denoise(colours, albedo=albedo, normal=normals, hdr=True)


def load_denoiser() -> Any:
    """The module that denoises.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyoidn
    except ImportError as error:
        raise UserError(
            "Pictures of studio are denoised by pyoidn: install it with `pip install '.[studio]'` in this "
            "package's checkout, or add --no-denoise and --samples 1024."
        ) from error
    return pyoidn


def developed(radiance: Float[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width 3"]:
    """Linear radiance to sRGB in [0, 1]: linear up to a shoulder, above it bright parts keep their differences."""
    shoulder = 0.6
    over = np.maximum(radiance - shoulder, 0) / (1 - shoulder)
    linear = np.minimum(radiance, shoulder) + (1 - shoulder) * (1 - np.exp(-over))
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)
