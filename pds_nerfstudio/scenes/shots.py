"""What cameras see of a scene, before and after an edit, and the pictures made of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from nerfstudio.utils.colormaps import apply_float_colormap
from torch import Tensor

from pds_nerfstudio.images import working_size
from pds_nerfstudio.pictures import contact_sheet, heat
from pds_nerfstudio.scenes.enlarge import enlarged
from pds_nerfstudio.scenes.families import render, scene_of
from pds_nerfstudio.scenes.views import Views, eval_views, train_views


@dataclass(frozen=True, eq=False)
class Shot:
    """What one camera sees, on the CPU."""

    image: Float[Tensor, "3 height width"]
    """RGB in [0, 1]."""
    depth: Float[Tensor, "height width"]
    """Along the optical axis, in scene units."""
    accumulation: Float[Tensor, "height width"]
    """Opacity in [0, 1]."""


@torch.no_grad()
def shoot(model: Model, camera: Cameras, times: float = 1.0) -> Shot:
    """Render one camera, batch size 1, in evaluation mode.

    Args:
        times: how many times larger the picture is than the photographs; see `shown_camera`.
    """
    with enlarged(times):
        rendering = render(model, camera)
    return Shot(*(value[0].cpu() for value in (rendering.image, rendering.depth[:, 0], rendering.accumulation[:, 0])))


def held_out_views(datamanager: object) -> Views:
    """The run's held-out views, or its training views where it holds none out."""
    views = eval_views(datamanager)
    return views if len(views) else train_views(datamanager)


def view_camera(views: Views, index: int, short_side: int | None, device: torch.device | str | None = None) -> Cameras:
    """A view's camera at its photograph's size, or no larger than `short_side` pixels on the shorter side.

    Both sides are even, as video codecs want them. Where its tensors are: see `Views.camera`.
    """
    height, width = views.size(index)
    wanted = min(height, width) if short_side is None else min(height, width, short_side)
    return views.camera(index, *working_size(height, width, wanted, multiple=2), device=device)


def shown_camera(views: Views, index: int, short_side: int | None, model: Model) -> tuple[Cameras, float]:
    """A view's camera for pictures that are looked at, and how many times larger than its photograph they are.

    Splats are shown with `short_side` pixels on the shorter side whatever the size of the photographs, a NeRF as
    `view_camera` shows it.
    """
    height, width = views.size(index)
    if short_side is None or not scene_of(model).enlarges:
        return view_camera(views, index, short_side), 1.0
    camera = views.camera(index, *working_size(height, width, short_side, multiple=2))
    return camera, max(1.0, int(camera.height) / height, int(camera.width) / width)


def depth_pictures(
    before: Shot, after: Shot
) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "3 height width"]]:
    """Both depths in one scale of colours, near blue to far red, over what is opaque; white where it is not."""
    opaque = before.accumulation > 0.5
    seen = before.depth[opaque] if bool(opaque.any()) else before.depth.flatten()
    near, far = (float(seen.float().quantile(q)) for q in (0.01, 0.99))

    def coloured(shot: Shot) -> Float[Tensor, "3 height width"]:
        share = ((shot.depth - near) / max(far - near, 1e-6)).clamp(0, 1)[..., None]
        colours = apply_float_colormap(share.nan_to_num(1.0), "turbo")
        opacity = shot.accumulation[..., None].clamp(0, 1)
        return (colours * opacity + (1 - opacity)).movedim(-1, 0)

    return coloured(before), coloured(after)


def before_after_sheet(before: Sequence[Shot], after: Sequence[Shot], path: Path, title: str, tile: int = 160) -> None:
    """A contact sheet: before, after, where the picture changed, and both depths."""
    depths = [depth_pictures(*pair) for pair in zip(before, after, strict=True)]
    rows = {
        "before": [shot.image for shot in before],
        "after": [shot.image for shot in after],
        "change (white: 0.5 or more)": [
            heat(b.image[None], a.image[None])[0] for b, a in zip(before, after, strict=True)
        ],
        "depth before": [depth[0] for depth in depths],
        "depth after": [depth[1] for depth in depths],
    }
    contact_sheet(rows, path, title, tile)


def prompts_title(src_prompt: str, tgt_prompt: str) -> str:
    """What a picture of an edit is called."""
    return f"{src_prompt or 'no source prompt'}   to   {tgt_prompt}"
