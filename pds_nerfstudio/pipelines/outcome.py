"""What an edit made of its scene, as pictures: the same cameras before and after, and what to do with the result.

The scene before is rebuilt from the base run that the edit names, with the edit's own settings and cameras, so that the
two sides differ in nothing but the edit.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.colormaps import apply_float_colormap
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from pds_nerfstudio.images import working_size
from pds_nerfstudio.pictures import contact_sheet, heat
from pds_nerfstudio.pipelines import ranks
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.rendering import render
from pds_nerfstudio.scenes.views import Views, eval_views, train_views
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer

    from pds_nerfstudio.pipelines.edit import EditPipeline

SHEET = "before_after.png"
"""What lies in a run's folder when its edit has ended."""
SHEET_VIEWS = 6
SHEET_SHORT_SIDE = 256
"""In pixels, where the edit itself does not say at which size it shows its views."""


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
def shoot(model: Model, camera: Cameras) -> Shot:
    """Render one camera, batch size 1, in evaluation mode."""
    rendering = render(model, camera)
    return Shot(*(value[0].cpu() for value in (rendering.image, rendering.depth[:, 0], rendering.accumulation[:, 0])))


def held_out_views(datamanager: object) -> Views:
    """The run's held-out views, or its training views where it holds none out."""
    views = eval_views(datamanager)
    return views if len(views) else train_views(datamanager)


def view_camera(views: Views, index: int, short_side: int | None) -> Cameras:
    """A view's camera at its photograph's size, or no larger than `short_side` pixels on the shorter side.

    Both sides are even, as video codecs want them.
    """
    height, width = views.size(index)
    wanted = min(height, width) if short_side is None else min(height, width, short_side)
    return views.camera(index, *working_size(height, width, wanted, multiple=2))


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


def write_sheet(pipeline: "EditPipeline", path: Path) -> None:
    """A few held-out views before and after, at the size that the prior was shown."""
    views = held_out_views(pipeline.datamanager)
    short_side = pipeline.short_side() or SHEET_SHORT_SIDE
    cameras = [view_camera(views, i, short_side) for i in evenly(len(views), SHEET_VIEWS)]
    before, after = (
        [shoot(model, camera) for camera in cameras] for model in (pipeline.source_scene(), pipeline.model)
    )
    title = prompts_title(pipeline.config.src_prompt, pipeline.config.tgt_prompt)
    before_after_sheet(before, after, path, f"{title}   (held-out views)")


def conclude(pipeline: "EditPipeline", trainer: "Trainer", step: int) -> None:
    """When an edit has ended and is saved: put a sheet into the run's folder and print the next commands."""
    if ranks.rank() > 0:
        return
    sheet, config_path = trainer.base_dir / SHEET, trainer.base_dir / "config.yml"
    try:
        write_sheet(pipeline, sheet)
        CONSOLE.print(f"Before and after: {in_rich(sheet)}", soft_wrap=True, highlight=False)
    except Exception as error:  # whatever it is: a finished edit is not lost for want of its picture
        CONSOLE.print(
            f"[bold yellow]The edit is saved, but the sheet {in_rich(sheet)} could not be made "
            f"({type(error).__name__}: {in_rich(str(error)[:200])}): try pds render.",
            soft_wrap=True,
        )
    family = "splatfacto" if isinstance(pipeline.model, SplatfactoModel) else "nerfacto"
    CONSOLE.print("Next:")
    for line in next_lines(config_path, family):
        CONSOLE.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def export_lines(config_path: Path, family: str, folder: Path) -> list[str]:
    """`ns-export` commands for a run's scene: its Gaussians, or meshes of a NeRF.

    nerfstudio 1.1.5 makes meshes from rays, which splats do not have.
    """
    where = ["--load-config", str(config_path), "--output-dir", str(folder)]
    if family == "splatfacto":
        return [shlex.join(["ns-export", "gaussian-splat", *where])]
    return [
        shlex.join(["ns-export", "tsdf", *where]),
        shlex.join(["ns-export", "poisson", *where, "--normal-method", "open3d"]),
    ]


def next_lines(config_path: Path, family: str) -> list[str]:
    """What to type when an edit has ended."""
    folder = config_path.parent
    return [
        shlex.join(["ns-viewer", "--load-config", str(config_path)]),
        shlex.join(["pds", "render", str(folder)]),
        shlex.join(["pds", "evaluate", str(folder)]),
        *export_lines(config_path, family, folder / "exports"),
    ]
