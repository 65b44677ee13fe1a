"""When an edit has ended: a sheet of its held-out views before and after, and what to type next.

The scene before is rebuilt from the base run that the edit names, with the edit's own settings and cameras, so that the
two sides differ in nothing but the edit.
"""

from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE

from pds_nerfstudio.next_steps import NextStep, after_edit, say_next, step
from pds_nerfstudio.pipelines.base import EditPipeline
from pds_nerfstudio.pipelines.dataset_update import DatasetUpdateConfig
from pds_nerfstudio.scenes.families import scene_type
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.shots import before_after_sheet, held_out_views, prompts_title, shoot, shown_camera
from pds_nerfstudio.text import in_rich

SHEET = "before_after.png"
"""What lies in a run's folder when its edit has ended."""
SHEET_VIEWS = 6
SHEET_SHORT_SIDE = 256
"""In pixels; more where the prior was shown more."""


def write_sheet(pipeline: EditPipeline, path: Path) -> None:
    """A few held-out views before and after, at the size that the prior was shown, or larger."""
    views = held_out_views(pipeline.datamanager)
    short_side = max(pipeline.short_side() or 0, SHEET_SHORT_SIDE)
    shown = [shown_camera(views, i, short_side, pipeline.model) for i in evenly(len(views), SHEET_VIEWS)]
    before, after = ([shoot(model, *one) for one in shown] for model in (pipeline.source_scene(), pipeline.model))
    before_it, after_it = pipeline.source_caption, pipeline.config.tgt_prompt
    title = prompts_title(before_it, after_it) if before_it != after_it else f"{after_it}, before and after refinement"
    before_after_sheet(before, after, path, f"{title}   (held-out views)")


def conclude(pipeline: EditPipeline, folder: Path) -> None:
    """Put a sheet into the run's folder and print the next commands."""
    sheet = folder / SHEET
    try:
        write_sheet(pipeline, sheet)
        CONSOLE.print(f"Before and after: {in_rich(sheet)}", soft_wrap=True, highlight=False)
    except Exception as error:  # Never fail a finished edit because its preview could not be drawn.
        CONSOLE.print(
            f"[bold yellow]The edit is saved, but the sheet {in_rich(sheet)} could not be made "
            f"({type(error).__name__}: {in_rich(str(error)[:200])}): try pds render.",
            soft_wrap=True,
        )
    say_next(CONSOLE, next_steps(pipeline, folder))


def export_commands(config: Path, family: Family, out: Path) -> list[list[str]]:
    """`ns-export` commands for a run's scene: its Gaussians, or meshes of a NeRF."""
    return scene_type(family).export_commands(config, out)


def next_steps(pipeline: EditPipeline, folder: Path) -> list[NextStep]:
    """What to type when an edit has ended; what is refined is not refined again."""
    family = pipeline.scene.family
    exports = export_commands(folder / "config.yml", family, folder / "exports")
    steps = [*after_edit(folder)[:-1], *(step("take it elsewhere", *command) for command in exports)]
    if not isinstance(pipeline.config, DatasetUpdateConfig):
        method = "sdedit-refine" + "-splat" * (family == "splatfacto")
        steps.insert(1, step("refine it", "ns-train", method, "--load-dir", folder / "nerfstudio_models"))
    return steps
