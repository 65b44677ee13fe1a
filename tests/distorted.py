"""A small capture with lens distortion, made procedurally: what the tests do with a real one where none is at hand."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import focal_length, render
from pds_nerfstudio.toybox.spec import find_edit

SIZE = 96, 128
"""Width and height of a photograph, in pixels."""
LENS = {"k1": -0.3, "k2": 0.1, "p1": 0.004, "p2": -0.003}
"""OpenCV's coefficients, radial and tangential: some four pixels at the corners."""


def intrinsics() -> dict[str, float]:
    """Of the photographs: pixels, the centre of the first at 0.5; not quite square, nor centred."""
    width, height = SIZE
    return {"fl_x": 1.7 * height, "fl_y": 1.65 * height, "cx": 0.48 * width, "cy": 0.51 * height}


def write_capture(folder: Path, views: int = 20) -> Path:
    """Write transforms.json and images/: a red ball from all sides, seen through the lens."""
    (folder / "images").mkdir(parents=True)
    cameras = capture_cameras(views, seed=7)
    size = 3 * max(SIZE) // 2
    pinhole = render(find_edit("red-to-blue").source, cameras, size, size).image.movedim(-1, 1)
    photographs = F.grid_sample(pinhole, places(size).expand(views, -1, -1, -1), align_corners=False)
    frames = []
    for i, (photograph, camera) in enumerate(zip(photographs, cameras, strict=True)):
        name = f"images/{i:03d}.jpg"
        pixels = (photograph.movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name, quality=95)
        frames.append({"file_path": name, "transform_matrix": [*camera.tolist(), [0.0, 0.0, 0.0, 1.0]]})
    width, height = SIZE
    described = intrinsics() | LENS | {"w": width, "h": height, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(described))
    return folder


def places(size: int) -> torch.Tensor:
    """Where in a square pinhole picture, in [-1, 1], the lens sees each pixel's centre [1 H W 2]."""
    k, (width, height) = intrinsics(), SIZE
    u, v = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
    bent_x, bent_y = (u - k["cx"]) / k["fl_x"], (v - k["cy"]) / k["fl_y"]
    x, y = bent_x, bent_y
    for _ in range(30):  # the model bends straight rays: its inverse, by fixed-point iteration
        square = x**2 + y**2
        radial = 1 + LENS["k1"] * square + LENS["k2"] * square**2
        shift_x = 2 * LENS["p1"] * x * y + LENS["p2"] * (square + 2 * x**2)
        shift_y = LENS["p1"] * (square + 2 * y**2) + 2 * LENS["p2"] * x * y
        x, y = (bent_x - shift_x) / radial, (bent_y - shift_y) / radial
    return torch.stack([x, y], dim=-1)[None] * focal_length(size) / (size / 2)
