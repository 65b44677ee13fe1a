"""Pictures of an edit: labelled contact sheets and side-by-side videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Images = Float[Tensor, "views 3 height width"]

MARGIN = 6
TEXT_HEIGHT = 20


def heat(images: Images, reference: Images) -> Images:
    """Where two sets of images differ: black where they agree, through red to white at a difference of 0.5."""
    difference = (images - reference).abs().amax(dim=1, keepdim=True) / 0.5
    return torch.cat([3 * difference, 3 * difference - 1, 3 * difference - 2], dim=1).clamp(0, 1)


def contact_sheet(rows: Mapping[str, Images], path: Path, title: str, tile: int = 160) -> None:
    """A PNG with one labelled row per entry and one column per view; small images are enlarged without smoothing."""
    label_width = 170
    views = max(len(images) for images in rows.values())
    first = next(iter(rows.values()))
    height = round(tile * first.shape[-2] / first.shape[-1])
    size = (label_width + views * (tile + MARGIN), TEXT_HEIGHT + 2 * MARGIN + len(rows) * (height + MARGIN))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    draw.text((MARGIN, MARGIN), title, "black", font)
    for r, (label, images) in enumerate(rows.items()):
        top = TEXT_HEIGHT + 2 * MARGIN + r * (height + MARGIN)
        draw.text((MARGIN, top + height // 2 - 8), label, "black", font)
        for c, image in enumerate(_bytes(images)):
            picture = Image.fromarray(image).resize((tile, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (label_width + c * (tile + MARGIN), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def side_by_side_video(left: Images, right: Images, path: Path, labels: tuple[str, str], fps: int = 20) -> None:
    """An MP4 of two image sequences beside each other, labelled below, at least 256 pixels high."""
    import imageio.v3 as iio

    scale = max(1, round(256 / left.shape[-2]))
    frames = []
    for a, b in zip(_bytes(left), _bytes(right), strict=True):
        pair = np.concatenate([a, b], axis=1).repeat(scale, axis=0).repeat(scale, axis=1)
        frame = Image.new("RGB", (pair.shape[1], pair.shape[0] + 32), "white")
        frame.paste(Image.fromarray(pair), (0, 0))
        draw, font = ImageDraw.Draw(frame), ImageFont.load_default(size=14)
        for i, label in enumerate(labels):
            draw.text((i * pair.shape[1] // 2 + MARGIN, pair.shape[0] + MARGIN), label, "black", font)
        frames.append(np.asarray(frame))
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, np.stack(frames), plugin="FFMPEG", fps=fps, codec="libx264", quality=8, macro_block_size=2)


def read_images(paths: Sequence[Path]) -> Images:
    """PNG or JPEG files of one size."""
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1).float() / 255


def _bytes(images: Images) -> np.ndarray:
    return (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()
