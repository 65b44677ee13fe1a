"""`pds render`: an edit as pictures, films and files: the same cameras before and after."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_writable
from pds_nerfstudio.next_steps import say_loading, say_next, step
from pds_nerfstudio.ranges import check_ranges
from pds_nerfstudio.runs import behind_latest, place_beside, require_pair
from pds_nerfstudio.text import in_rich, printable

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.before_after import Pair

ROOM = 4 << 20
"""Bytes that pictures and films take at least."""
FilmPath = Literal["training", "interpolated", "orbit"]
SplatFormat = Literal["spz", "splat", "glb"]
"""As `scenes.formats.splat_files.WRITERS` has them, whose import would cost that of torch."""


@dataclass
class Render:
    """Render a scene before and after its edit from the same cameras: held-out views, films, depth and change.

    The diffusion model is not loaded. The run before the edit is never written to.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the edited run."""
    paths: tuple[FilmPath, ...] = ("training", "interpolated")
    """What to film: the training views in their order, a smooth way through some of them, one turn around what they
    look at. None, if nothing follows."""
    export: bool = False
    """Also write the edited scene as files: Gaussians and a mesh of splats, a textured mesh of a NeRF."""
    formats: tuple[SplatFormat, ...] = ()
    """What --export writes of splats besides splat.ply: Niantic's .spz (a quarter of the size or less), .splat (without
    view dependence), glTF with KHR_gaussian_splatting (.glb)."""
    out: Path | None = None
    """Folder to write to; by default `renders` in the one that was given."""
    resolution: Annotated[int, Ge(2), Le(8192)] | None = 512
    """Shorter side of pictures and films in pixels; of NeRFs, where the photographs are not smaller. None: that of the
    photographs."""
    frames: Annotated[int, Ge(2), Le(100_000)] = 60
    """Frames of each film, at most as many as there are training views for "training"."""
    fps: Annotated[int, Ge(1), Le(240)] = 20
    """Frames per second of each film."""
    held_out: bool = True
    """Also the held-out views, as single pictures."""
    source: Path | None = None
    """Run to compare with; by default the one that the edit began with."""
    data: Path | None = None
    """The dataset, where it has moved; by default where the run names it, or found again from the run."""
    step: Annotated[int, Ge(0), Le(10**9)] | None = None
    """Checkpoint of the edited run; by default its last."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Render, and print where everything is."""
        if not (self.paths or self.held_out or self.export):
            raise UserError("Nothing is asked for: give --paths, --held-out or --export.")
        if self.export and self.step is not None:
            raise UserError("--export writes the run's last checkpoint: leave --step out, or export without it.")
        if self.formats and not self.export:
            raise UserError(f"--formats {self.formats[0]} is of --export: add that.")
        pictures = bool(self.paths or self.held_out)
        require_pair(self.run_folder, self.step, self.source, self.data, pictures)
        console = Console(soft_wrap=True, highlight=False)
        say_loading(console)
        from pds_nerfstudio.evaluation.before_after import load_pair, plan_pair
        from pds_nerfstudio.evaluation.renders import convert, export, export_splat_mesh
        from pds_nerfstudio.pipelines.conclusion import export_commands
        from pds_nerfstudio.scenes.run_config import usable_config

        plan = plan_pair(self.run_folder, self.step, self.source, self.data, compared=pictures)
        if self.formats and plan.family != "splatfacto":
            raise UserError(
                f"--formats {self.formats[0]} is a format of splats, and {plan.folder} a NeRF: leave it out."
            )
        out = self.out or place_beside(self.run_folder, plan.folder, "renders")
        require_writable(out, room=ROOM)
        written = []
        if pictures:
            pair = load_pair(plan)
            written = self._films_and_stills(pair, out, console)
        if self.export:
            files = [export(plan.run.config_path, plan.family, out / "export", data=plan.run.data)]
            if plan.family == "splatfacto":
                antialiased = getattr(plan.run.model_config, "rasterize_mode", "") == "antialiased"
                files += convert(files[0], self.formats, antialiased)
                try:
                    mesh = out / "export" / "mesh.ply"
                    files.append(export_splat_mesh(plan.run.config_path, mesh, data=plan.run.data))
                except UserError as error:  # the Gaussians themselves are there
                    console.print(f"[yellow]{in_rich(error)}")
            written += files
        for path in written:
            console.print(f"  {printable(path)}", markup=False)
        config = usable_config(plan.run.config_path, plan.run.config, out)
        steps = [step("walk around it", "ns-viewer", "--load-config", config)]
        if plan.edit is not None and not place_beside(self.run_folder, plan.folder, "evaluation").exists():
            steps.append(step("measure it", "pds", "evaluate", behind_latest(self.run_folder)))
        if not self.export:
            exports = export_commands(config, plan.family, out / "export")
            steps += [step("take it elsewhere (or --export)", *command) for command in exports]
        say_next(console, steps)

    def _films_and_stills(self, pair: "Pair", out: Path, console: Console) -> list[Path]:
        from rich.progress import Progress

        from pds_nerfstudio.evaluation.renders import film, still_views
        from pds_nerfstudio.scenes.paths import camera_path
        from pds_nerfstudio.scenes.shots import before_after_sheet, prompts_title, shown_camera

        written = []
        src_prompt, tgt_prompt = pair.plan.prompts
        title = prompts_title(src_prompt, tgt_prompt) if tgt_prompt else "before and after"
        labels = src_prompt or "before", tgt_prompt or "after"
        with Progress(console=console, transient=True) as bar:
            if self.held_out:
                task = bar.add_task("held-out views", total=len(pair.held_out))
                sheet = out / "held_out.png"
                advance = lambda task=task: bar.advance(task)  # noqa: E731
                still_views(pair, out / "held_out", sheet, f"{title}   (held-out views)", self.resolution, advance)
                written += [sheet, out / "held_out"]
            first, times = shown_camera(pair.training, 0, self.resolution, pair.after)
            size = int(first.height), int(first.width)
            for kind in self.paths:
                cameras = camera_path(pair.training, kind, self.frames, *size)
                task = bar.add_task(f"{kind} path", total=len(cameras))
                folder, sheet = out / kind, out / f"{kind}.png"
                shots = film(
                    pair.before,
                    pair.after,
                    cameras,
                    folder / "side_by_side.mp4",
                    labels,
                    (folder / "before.mp4", folder / "after.mp4"),
                    self.fps,
                    lambda task=task: bar.advance(task),
                    times,
                )
                before_after_sheet([b for b, _ in shots], [a for _, a in shots], sheet, f"{title}   ({kind} path)")
                written += [folder / "side_by_side.mp4", folder / "before.mp4", folder / "after.mp4", sheet]
        return written
