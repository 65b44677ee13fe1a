"""In whose coordinates are these Gaussians? The photographs answer: only in the right ones they look like them.

A file of splats does not say. Each frame that it may be in is tried: the Gaussians are moved into nerfstudio's scene,
a few training views are rendered, and compared with their photographs. As the background is not known either, each
view has the plain one that suits it best; so has a picture without any Gaussian, which is what a frame has to beat.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.models.base_model import Model
from PIL import Image
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import from_json
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.formats.spz import OTHER_AXES
from pds_nerfstudio.scenes.gaussians import Splats
from pds_nerfstudio.scenes.hull import project
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.views import Views

VIEWS = 4
"""Photographs that are compared."""
SHORT_SIDE = 128
"""In pixels, of the renderings."""
CLEAR = 3.0
"""Decibels by which the right frame is better than a picture without Gaussians, at the least."""
APART = 1.0
"""Decibels by which it is better than the next frame, at the least."""
SEEN = 0.05
"""At least this share of the Gaussians lies in some training view, or the two are not of one scene."""


@dataclass(frozen=True)
class Frame:
    """A frame that Gaussians may be in."""

    name: str
    transform: Float[Tensor, "3 4"]
    scale: float
    """How they come from there into nerfstudio's scene: scale · (M x + b), transform = [M | b]."""


def frames_of(parsed: DataparserOutputs, data: Path, as_stored: bool = False, distinct: bool = True) -> list[Frame]:
    """Those of a dataset: nerfstudio's scene, the dataset's own coordinates, and those that its poses are written in.

    `ns-process-data` turns what COLMAP found and writes down how (`applied_transform` in transforms.json): tools that
    read COLMAP's files are in the one, tools that read transforms.json in the other.

    Args:
        as_stored: also those frames with y and z as a .spz has them, for tools that do not turn them.
        distinct: of frames that are the same, only the first.
    """
    to_scene, scale = parsed.dataparser_transform.float(), float(parsed.dataparser_scale)
    frames = [Frame("scene", torch.eye(4)[:3], 1.0), Frame("dataset", to_scene, scale)]
    applied, applied_scale = _applied(data)
    if applied is not None:
        frames.append(Frame("poses", to_scene @ torch.linalg.inv(applied), scale / applied_scale))
    if as_stored:
        turned = [torch.cat([frame.transform[:, :3] @ OTHER_AXES, frame.transform[:, 3:]], dim=1) for frame in frames]
        frames += [Frame(f"{f.name}, axes as stored", t, f.scale) for f, t in zip(frames, turned, strict=True)]
    if not distinct:
        return frames
    return [frame for i, frame in enumerate(frames) if not any(_same(frame, other) for other in frames[:i])]


def choose_frame(
    splats: Splats,
    frames: list[Frame],
    parsed: DataparserOutputs,
    model_of: Callable[[Splats], Model],
    what: Path,
) -> tuple[Splats, str]:
    """The Gaussians in nerfstudio's scene, and a sentence that says which frame they were in and how well they fit.

    Args:
        model_of: a splatfacto model of the Gaussians, with a black background.
        what: their file, for the message.

    Raises:
        UserError: no frame fits the photographs clearly better than the others and than no Gaussians at all.
    """
    views = _views(parsed)
    chosen = evenly(len(views), VIEWS)
    photographs = {i: views.image(i, *_size(views, i)) for i in chosen}
    nothing = float(np.mean([_psnr(torch.zeros_like(p), torch.zeros_like(p[:, :1]), p) for p in photographs.values()]))
    moved, fits = {}, {}
    for frame in frames:
        there = splats.moved(frame.transform, frame.scale) if frame.name != "scene" else splats
        if share_seen(there.means, parsed.cameras) < SEEN:
            fits[frame.name] = nothing
            continue
        moved[frame.name] = there
        fits[frame.name] = _fit(model_of(there), views, photographs)
    best, *others = sorted(fits, key=lambda name: -fits[name])
    listed = ", ".join(f"{name} {fits[name]:.1f} dB" for name in [best, *others])
    if fits[best] < nothing + CLEAR or any(fits[best] < fits[other] + APART for other in others):
        raise UserError(
            f"The Gaussians of {what} do not clearly look like the photographs in any coordinates ({listed}, a plain "
            f"picture {nothing:.1f} dB): {unlikely(splats) or 'they are of another scene or of other poses'}; or say "
            "which with --frame."
        )
    return moved[best], f"Coordinates: {best}, by {len(chosen)} photographs ({listed})."


def unlikely(splats: Splats) -> str:
    """In words, which of their values seem to be no logarithms or logits; empty where none does."""
    if bool((splats.scales > 0).all()):
        return "their scales are all above 0, as if they were lengths, not logarithms"
    if bool(((splats.opacities >= 0) & (splats.opacities <= 1)).all()):
        return "their opacities all lie in [0, 1], as if they were no logits"
    return ""


def share_seen(means: Float[Tensor, "gaussians 3"], cameras: Any) -> float:
    """Of points in the scene, the share that lies in the picture of some camera."""
    seen = torch.zeros(len(means), dtype=torch.bool)
    for i in range(len(cameras)):
        place, depth = project(cameras[i : i + 1], means)
        size = torch.stack([cameras.width[i], cameras.height[i]], dim=-1)
        seen |= ((place >= 0) & (place < size)).all(-1) & (depth > 0)
    return float(seen.float().mean())


def _applied(data: Path) -> tuple[Float[Tensor, "4 4"] | None, float]:
    """What was done to the poses of a transforms.json, if it says so."""
    path = data / "transforms.json" if data.is_dir() else data
    try:
        content = from_json(path)
        rows = torch.tensor(content["applied_transform"], dtype=torch.float32)[:3]
        scale = float(content.get("applied_scale", 1.0))
        whole = torch.cat([rows.reshape(3, 4), torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        return (whole, scale) if bool(torch.det(whole).abs() > 1e-6) and scale > 0 else (None, 1.0)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError):
        return None, 1.0


def _same(one: Frame, other: Frame) -> bool:
    return bool(torch.allclose(one.transform, other.transform, atol=1e-4)) and abs(one.scale / other.scale - 1) < 1e-4


def _views(parsed: DataparserOutputs) -> Views:
    def read(index: int) -> Tensor:
        with Image.open(parsed.image_filenames[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGBA" if "A" in image.getbands() else "RGB")))

    return Views(parsed.cameras, read, tuple(map(str, parsed.image_filenames)), in_training=False)


def _size(views: Views, index: int) -> tuple[int, int]:
    height, width = views.size(index)
    smaller = min(1.0, SHORT_SIDE / min(height, width))
    return max(1, round(height * smaller)), max(1, round(width * smaller))


@torch.no_grad()
def _fit(model: Model, views: Views, photographs: Mapping[int, Float[Tensor, "1 3 _ _"]]) -> float:
    """Mean PSNR of the views."""
    model.eval()
    values = []
    for index, photograph in photographs.items():
        rendering = render(model, views.camera(index, *photograph.shape[-2:], device=model.device))
        values.append(_psnr(rendering.image.cpu(), rendering.accumulation.cpu(), photograph))
    return float(np.mean(values))


def _psnr(
    image: Float[Tensor, "1 3 height width"],
    accumulation: Float[Tensor, "1 1 height width"],
    photograph: Float[Tensor, "1 3 height width"],
) -> float:
    """Of a rendering before black, which gets the plain background that suits it best."""
    clear = 1 - accumulation
    below = (clear * (photograph - image)).sum((2, 3), keepdim=True) / clear.square().sum().clamp(min=1e-6)
    error = (image + clear * below.clamp(0, 1) - photograph).square().mean()
    return float(-10 * error.clamp(min=1e-10).log10())
