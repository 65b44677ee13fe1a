"""Gaussians as a binary glTF with KHR_gaussian_splatting (Khronos, release candidate of 2026), uncompressed.

The trap: of its attributes scales are lengths and opacities lie in [0, 1], where a .ply has logarithms and logits;
rotations have their real part last; and glTF's y points up, where nerfstudio's z does.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import written
from pds_nerfstudio.scenes.gaussians import C0, Splats

NAME = "KHR_gaussian_splatting"
UP = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
"""From z up to y up."""
FLOAT, UNSIGNED_BYTE, POINTS = 5126, 5121, 0
TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
MOST_DEGREE = 3
"""Of spherical harmonics in the extension."""


def write_glb(path: Path, splats: Splats) -> None:
    """One mesh of points, which viewers without the extension show in the Gaussians' mean colours.

    Raises:
        UserError: the harmonics are of a higher degree than the extension has attributes for.
    """
    if splats.sh_degree > MOST_DEGREE:
        raise UserError(f"{path}: {NAME} has harmonics up to degree {MOST_DEGREE}, and the scene {splats.sh_degree}.")
    moved = splats.moved(UP, 1.0)
    harmonics, opacities = moved.harmonics.numpy(), moved.opacities.sigmoid().numpy()
    quats = torch.nn.functional.normalize(moved.quats, dim=1).numpy()[:, [1, 2, 3, 0]]
    color = np.concatenate([0.5 + C0 * harmonics[:, 0], opacities], axis=1)
    arrays = {
        "POSITION": moved.means.numpy(),
        "COLOR_0": np.rint(255 * color).clip(0, 255).astype(np.uint8),
        f"{NAME}:ROTATION": quats,
        f"{NAME}:SCALE": moved.scales.exp().numpy(),
        f"{NAME}:OPACITY": opacities,
    }
    for degree in range(splats.sh_degree + 1):
        for n in range(2 * degree + 1):
            arrays[f"{NAME}:SH_DEGREE_{degree}_COEF_{n}"] = harmonics[:, degree**2 + n]
    blobs = [array.tobytes() for array in arrays.values()]
    starts = np.cumsum([0, *map(len, blobs)]).tolist()  # all multiples of 4
    accessors = [_accessor(i, array) for i, array in enumerate(arrays.values())]
    accessors[0] |= {"min": moved.means.amin(dim=0).tolist(), "max": moved.means.amax(dim=0).tolist()}
    primitive = {
        "mode": POINTS,
        "attributes": {name: i for i, name in enumerate(arrays)},
        "extensions": {NAME: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    document = {
        "asset": {"version": "2.0", "generator": "pds_nerfstudio"},
        "extensionsUsed": [NAME],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": len(blob)}
            for start, blob in zip(starts, blobs, strict=False)
        ],
        "buffers": [{"byteLength": starts[-1]}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    with written(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + starts[-1]))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", starts[-1], b"BIN\0"))
        file.writelines(blobs)


def _accessor(view: int, array: np.ndarray) -> dict[str, Any]:
    of_bytes = array.dtype == np.uint8
    return {
        "bufferView": view,
        "componentType": UNSIGNED_BYTE if of_bytes else FLOAT,
        "count": len(array),
        "type": TYPES[array.shape[1]],
        **({"normalized": True} if of_bytes else {}),
    }
