"""Pictures of an edit: labelled contact sheets and side-by-side videos."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import written
from pds_nerfstudio.images import working_size

Images = Float[Tensor, "views 3 height width"]
Image3 = Float[Tensor, "3 height width"]

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow's formats raise of a file that is no picture, is damaged, or would fill the memory."""
ON_ITS_SIDE = range(5, 9)
"""EXIF's orientations that exchange height and width."""
SIXTEEN_BITS = 65535
"""The largest value of 16 bits."""
MARGIN = 6
TEXT_HEIGHT = 20
LINE_HEIGHT = 17
WEBP_QUALITY = 60
"""Of 100: sixty frames of three pictures of 320 pixels take half a megabyte."""


def heat(images: Images, reference: Images) -> Images:
    """Where two sets of images differ: black where they agree, through red to white at a difference of 0.5."""
    difference = (images - reference).abs().amax(dim=1, keepdim=True) / 0.5
    return torch.cat([3 * difference, 3 * difference - 1, 3 * difference - 2], dim=1).clamp(0, 1)


def contact_sheet(
    rows: Mapping[str, Sequence[Image3] | Images],
    path: Path,
    title: str,
    tile: int = 160,
    columns: Sequence[str] = (),
    badges: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """A PNG with one labelled row per entry and one column per view; small images are enlarged without smoothing.

    Args:
        rows: label -> pictures, RGB in [0, 1]; each is brought to the tile's width and the first one's aspect ratio.
        tile: width of a picture in pixels.
        columns: headings above the columns, if any.
        badges: label -> what to write into the corner of each of its pictures, if anything.
    """
    label_width, font = 170, ImageFont.load_default(size=14)
    count = max(len(images) for images in rows.values())
    first = next(iter(rows.values()))[0]
    height = round(tile * first.shape[-2] / first.shape[-1])
    headings = [_wrapped(heading, tile, font) for heading in columns]
    top = 2 * MARGIN + TEXT_HEIGHT + (LINE_HEIGHT * max(len(lines) for lines in headings) + MARGIN if headings else 0)
    size = (label_width + count * (tile + MARGIN), top + len(rows) * (height + MARGIN))
    # A title longer than the pictures are wide makes the sheet wider, never cuts the title.
    size = (max(size[0], 2 * MARGIN + math.ceil(font.getlength(title))), size[1])
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, "black", font)
    for c, lines in enumerate(headings):
        left = label_width + c * (tile + MARGIN)
        draw.text((left, 2 * MARGIN + TEXT_HEIGHT), "\n".join(lines), "black", font, spacing=2)
    for r, (label, images) in enumerate(rows.items()):
        upper = top + r * (height + MARGIN)
        lines = _wrapped(label, label_width - 2 * MARGIN, font)
        draw.text(
            (MARGIN, upper + (height - LINE_HEIGHT * len(lines)) // 2), "\n".join(lines), "black", font, spacing=2
        )
        for c, image in enumerate(images):
            kind = Image.Resampling.NEAREST if image.shape[-1] <= tile else Image.Resampling.LANCZOS
            picture = as_pil(image).resize((tile, height), kind)
            left = label_width + c * (tile + MARGIN)
            sheet.paste(picture, (left, upper))
            if badges and badges[label][c]:
                box = draw.textbbox((left + MARGIN, upper + MARGIN), badges[label][c], font)
                draw.rectangle((left, upper, box[2] + MARGIN, box[3] + MARGIN), "black")
                draw.text((left + MARGIN, upper + MARGIN), badges[label][c], "white", font)
    with written(path) as partial:
        sheet.save(partial)


def _wrapped(text: str, width: int, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont") -> list[str]:
    """Lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def as_pil(image: Image3) -> Image.Image:
    """One picture, RGB in [0, 1]."""
    return Image.fromarray(_bytes(image[None])[0])


def save_image(image: Image3, path: Path) -> None:
    """One picture, RGB in [0, 1], as a file of the type that its name says."""
    with written(path) as partial:
        as_pil(image).save(partial)


def side_by_side(pictures: Sequence[Image3], labels: Sequence[str], lines: int | None = None) -> Image3:
    """Pictures of one size beside each other, labelled below; small ones are enlarged to about 256 pixels of height.

    Args:
        lines: of text that there is room for, whatever the labels need; for the frames of a film.
    """
    scale = max(1, round(256 / pictures[0].shape[-2]))
    row = _bytes(torch.cat(list(pictures), dim=-1)[None])[0].repeat(scale, axis=0).repeat(scale, axis=1)
    font, each = ImageFont.load_default(size=14), row.shape[1] // len(pictures)
    texts = [_wrapped(label, each - 2 * MARGIN, font)[:lines] for label in labels]
    below = LINE_HEIGHT * (lines or max(map(len, texts))) + 2 * MARGIN
    frame = Image.new("RGB", (row.shape[1], row.shape[0] + below + below % 2), "white")
    frame.paste(Image.fromarray(row), (0, 0))
    for i, text in enumerate(texts):
        ImageDraw.Draw(frame).text(
            (i * each + MARGIN, row.shape[0] + MARGIN), "\n".join(text), "black", font, spacing=2
        )
    return torch.from_numpy(np.array(frame)).movedim(-1, 0).float() / 255


@contextmanager
def video(path: Path, fps: int = 20) -> Iterator[Callable[[Image3], None]]:
    """An MP4 that is written frame by frame: call what this gives with each picture, all of one even size.

    If `path` ends in .webp it is an animated WebP without an end, which pages show as they show pictures.
    """
    if path.suffix == ".webp":
        frames: list[Image.Image] = []
        yield lambda image: frames.append(Image.fromarray(_bytes(image[None])[0]))
        with written(path) as partial:
            animated = {"save_all": True, "append_images": frames[1:], "duration": 1000 // fps, "loop": 0}
            frames[0].save(partial, "WEBP", quality=WEBP_QUALITY, method=6, **animated)
        return
    import imageio.v2 as iio

    with written(path) as partial:
        writer: Any = iio.get_writer(partial, format="FFMPEG", fps=fps, codec="libx264", quality=8, macro_block_size=2)  # pyright: ignore[reportArgumentType]
        with writer:
            yield lambda image: writer.append_data(_bytes(image[None])[0])


def read_images(paths: Sequence[Path]) -> Images:
    """PNG or JPEG files of one size."""
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1).float() / 255


def in_rgb(image: Image.Image) -> Image.Image:
    """A picture as viewers show it, in RGB: 16 bits of gray as 8, what is transparent white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, SIXTEEN_BITS) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_photograph(path: Path, short_side: int, multiple: int, stored: bool = False) -> Images:
    """One file at the size at which a prior is shown it (see `images.working_size`), in its own shape.

    Args:
        stored: show the pixels as they are stored, those that a scene's cameras are for; by default the picture is
            turned as its EXIF says.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as file:
            pixels = np.array(in_rgb(file if stored else ImageOps.exif_transpose(file)))
    except UNREADABLE as error:
        raise UserError(f"The image {path} cannot be read ({error}): replace it, or leave it out.") from error
    image = torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255
    height, width = image.shape[-2:]
    size = working_size(height, width, short_side, multiple)
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def shown_size(path: Path, stored: bool = False) -> tuple[int, int]:
    """Height and width of a file in pixels as `read_photograph` reads it, by its header alone.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as file:
            turned = not stored and file.getexif().get(ExifTags.Base.Orientation, 1) in ON_ITS_SIDE
            return file.size if turned else file.size[::-1]
    except UNREADABLE as error:
        raise UserError(f"The image {path} cannot be read ({error}): replace it, or leave it out.") from error


def _bytes(images: Images) -> np.ndarray:
    return (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()
