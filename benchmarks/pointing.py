"""How well one click selects an object: toybox scenes of every shape, reconstructed, held-out views.

    python benchmarks/pointing.py --out outputs/pointing [--family nerfacto]

A click is a pixel of a training view that the object fills, drawn at random; each is the only one of its selection.
The selection is rendered over the held-out views, each Gaussian white or black, and compared with the object's true
mask; of a NeRF, it is the pixels whose surface lies in the region. A click that is refused counts as 0. Writes an
overlay of each scene's worst click: green where both agree, magenta where the selection alone is, black where the mask
alone is.
"""

from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float
from nerfstudio.pipelines.base_pipeline import Pipeline
from PIL import Image
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.trial import SETTINGS, reconstruct
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.lift import Members, render_values
from pds_nerfstudio.scenes.pick import OPAQUE, look, object_at, point_seen
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.splatfacto import SplatfactoScene
from pds_nerfstudio.scenes.views import Views, eval_views, train_views
from pds_nerfstudio.toybox.dataset import write_scene
from pds_nerfstudio.toybox.spec import SceneSpec

SCENES = (
    SceneSpec("ball", "red"),
    SceneSpec("cube", "white"),
    SceneSpec("cone", "yellow", "beige"),
    SceneSpec("can", "red", "brown"),
    SceneSpec("flat can", "green", "beige"),
    SceneSpec("tall can", "cyan", "black"),
    SceneSpec("ring", "purple", "brown"),
    SceneSpec("man", "blue"),
    SceneSpec("man stretching out his arms", "green"),
    SceneSpec("man raising his arms", "orange", "beige"),
    SceneSpec("ball", "red", hat=True),
    SceneSpec("man", "blue", "black", hat=True),
)
GREEN, MAGENTA, BLACK = (torch.tensor(rgb) for rgb in ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.0, 0.0, 0.0)))


def object_mask(data: Path, name: str) -> Float[Tensor, "height width"]:
    """Share of each pixel of an image that shows the object."""
    mask = np.asarray(Image.open(data / "object_masks" / Path(name).name), dtype=np.float32)
    return torch.from_numpy(mask / 255)


def draw_clicks(data: Path, views: Views, count: int, seed: int) -> list[tuple[int, float, float]]:
    """View, column and row of clicks on the object, each in another view."""
    generator = torch.Generator().manual_seed(seed)
    clicks = []
    for view in torch.randperm(len(views), generator=generator)[:count].tolist():
        rows, columns = (object_mask(data, views.names[view]) > 0.99).nonzero().unbind(-1)
        place = int(torch.randint(len(rows), (), generator=generator))
        clicks.append((view, float(columns[place]) + 0.5, float(rows[place]) + 0.5))
    return clicks


@torch.no_grad()
def selections(
    pipeline: Pipeline, data: Path, click: tuple[int, float, float]
) -> tuple[list[Bool[Tensor, "_ _"]], list[Bool[Tensor, "_ _"]]]:
    """What a click selects in each held-out view, and what it should."""
    model, training, held_out = pipeline.model, train_views(pipeline.datamanager), eval_views(pipeline.datamanager)
    region = object_at(model, training, point_seen(model, training, *click))
    wanted = [object_mask(data, name) > 0.5 for name in held_out.names]
    if isinstance(region, Members):
        assert isinstance(model, SplatfactoScene)
        values = region.chosen[:, None].float()
        cameras = [held_out.camera(i, *held_out.size(i)) for i in range(len(held_out))]
        return [render_values(model, camera, values)[..., 0] > 0.5 for camera in cameras], wanted
    looks = look(model, held_out)
    assert len(looks.renderings) == len(held_out)
    opaque = torch.cat([rendering.accumulation.flatten() > OPAQUE for rendering in looks.renderings])
    return looks.split(region.contains(looks.points) & opaque), wanted


def intersection_over_union(selected: list[Tensor], wanted: list[Tensor]) -> float:
    """Over all pixels of all views."""
    a, b = (torch.stack(masks) for masks in (selected, wanted))
    return float((a & b).sum() / (a | b).sum())


@torch.no_grad()
def overlay(pipeline: Pipeline, selected: list[Tensor], wanted: list[Tensor], path: Path) -> None:
    """The held-out views, and below each how the selection compares."""
    views, columns = eval_views(pipeline.datamanager), []
    for i, (a, b) in enumerate(zip(selected, wanted, strict=True)):
        image = render(pipeline.model, views.camera(i, *views.size(i))).image[0].movedim(0, -1).cpu()
        marked = torch.where((a & b)[..., None], (image + GREEN) / 2, image)
        marked = torch.where((a & ~b)[..., None], MAGENTA, torch.where((b & ~a)[..., None], BLACK, marked))
        columns.append(torch.cat([image, marked]))
    picture = Image.fromarray((torch.cat(columns, dim=1).clamp(0, 1) * 255).byte().numpy())
    picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.NEAREST).save(path)


def main(
    out: Path,
    clicks: int = 5,
    seed: int = 0,
    threads: int = 1,
    family: Family = "splatfacto",
    scenes: tuple[int, ...] = tuple(range(len(SCENES))),
) -> None:
    """Print the table.

    Args:
        out: where scenes, their runs and the overlays go; what is there is not made again.
        clicks: selections by scene, each by one click.
        scenes: which of SCENES, counted from 0.
    """
    torch.set_num_threads(threads)
    rows = ["| scene | least IoU | mean IoU |", "|---|---:|---:|"]
    for number in scenes:
        spec, folder = SCENES[number], out / f"{number:02d}"
        if not (run := next(folder.glob("run/**/config.yml"), None)):
            write_scene(spec, folder / "data", seed=seed)
            run = reconstruct(family, folder / "data", folder / "run", SETTINGS[family].reconstruction_steps, seed)
        pipeline = load_run(run)
        values = []
        for click in draw_clicks(folder / "data", train_views(pipeline.datamanager), clicks, seed):
            try:
                selected, wanted = selections(pipeline, folder / "data", click)
            except UserError as error:
                print(f"{number:02d}, {click}: {error}")
                values.append(0.0)
                continue
            values.append(intersection_over_union(selected, wanted))
            if values[-1] == min(values):
                overlay(pipeline, selected, wanted, out / f"{number:02d}.png")
        rows.append(f"| {spec.prompt().removeprefix('a photo of ')} | {min(values):.3f} | {np.mean(values):.3f} |")
    print("\n".join(rows))


if __name__ == "__main__":
    tyro.cli(main)
