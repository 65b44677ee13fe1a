"""Shards of studio photographs: pictures in groups of four, with their cameras and scenes. Needs no Mitsuba.

Pictures are JPEGs (quality 94, without chroma subsampling): 5.6 KB each, 44.5 dB from the pixels they stand for.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from view_groups import VIEWS

IMAGE_SIZE = 128
QUALITY = 94


def jpeg(image: Tensor) -> Tensor:
    """The file's bytes of an image [H W 3] in [0, 1]."""
    buffer = io.BytesIO()
    pixels = (255 * image).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return torch.from_numpy(np.frombuffer(buffer.getvalue(), np.uint8).copy())


def decoded(file: Tensor) -> Tensor:
    """Bytes [3 H W] of a JPEG's."""
    with Image.open(io.BytesIO(file.numpy().tobytes())) as picture:
        return torch.from_numpy(np.array(picture)).movedim(-1, 0)


@dataclass
class Photographs:
    """Groups of four photographs, their cameras and the numbers of their scenes, from all shards of a folder."""

    images: Tensor
    """Bytes [groups 4 3 H W]."""
    cameras: Tensor
    specs: Tensor
    shards: int

    @classmethod
    def load(cls, folder: Path, pattern: str = "views_*.pt") -> "Photographs":
        """Raises FileNotFoundError where the folder has no shard."""
        paths = sorted(folder.glob(pattern))
        if not paths:
            raise FileNotFoundError(f"{folder} holds no {pattern}: run data_scripts/studio_views.py first.")
        shards = [torch.load(path, weights_only=True) for path in paths]
        files = [file for shard in shards for file in shard["jpegs"]]
        images = torch.stack([decoded(file) for file in files]).unflatten(0, (-1, VIEWS))
        return cls(images, *(torch.cat([shard[name] for shard in shards]) for name in ("cameras", "specs")), len(paths))

    def with_new(self, folder: Path) -> "Photographs":
        """These, or all of the folder where it has more shards by now."""
        return self if len(list(folder.glob("views_*.pt"))) == self.shards else self.load(folder)


def as_floats(images: Tensor, device: torch.device | str) -> Tensor:
    """Bytes as numbers in [0, 1]."""
    return images.to(device).float() / 255
