"""`pds svg`: edit a vector drawing from text, and get a vector drawing back."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import tyro

from pds_nerfstudio.cli.preview import EDITORS, SDEDIT, known_editors, parsed_setting
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_own, require_writable
from pds_nerfstudio.next_steps import PROMPTS, NextStep, say_next, step
from pds_nerfstudio.priors.families import PACKAGED
from pds_nerfstudio.prompts import check_prompts, unknown_words
from pds_nerfstudio.ranges import Guidance, Pixels, Steps, check_ranges
from pds_nerfstudio.text import in_rich, visible

if TYPE_CHECKING:
    from pds_nerfstudio.objectives import ScoreDistillation
    from pds_nerfstudio.pipelines.svg_edit import SvgProgress
    from pds_nerfstudio.pipelines.svg_settings import SvgSettings
    from pds_nerfstudio.vector import Drawing

SUFFIX = ", minimal flat 2d vector image"
"""After both prompts, in the manner of Koo et al. 2024 (section 6.2)."""
OF_DRAWINGS: dict[str, dict[str, float]] = {
    "pds": {"min_step_percent": 0.1},
    "sds": {"min_step_percent": 0.05, "max_step_percent": 0.95},
    "piva": {"regularisation": 0.4},
}
"""Of each objective, what drawings and pictures want otherwise than scenes: timesteps of Koo et al. 2024 (supplement,
S.3; DDS keeps its own), and the λ of Le et al. 2024 for images (section 5.1)."""
ROOM = 4 << 20
"""Bytes that drawing, picture and film take at least."""
STATE, INDEX = "state.pt", "svg.json"
OWN_FILES = ("before_after.png", "film.mp4")
"""What is written beside the drawing."""
PICTURE = 384
"""Shorter side of the pictures that are written, in pixels."""


@dataclass
class Svg:
    """Edit an SVG drawing from text: its control points, colours, opacities and stroke widths.

    Writes the edited file with the same elements, ids, groups and order, a picture before and after, and a film of the
    edit. Run the same command again to continue after an interruption.
    """

    input: tyro.conf.Positional[Path]
    """The SVG file to edit."""
    src_prompt: Annotated[str, tyro.conf.arg(aliases=("--from",))] = ""
    """What the drawing shows. SDS does not ask for it."""
    tgt_prompt: Annotated[str, tyro.conf.arg(aliases=("--to",))] = ""
    """What the drawing should show, "a drawing of a clown"."""
    guidance_scale: Guidance | None = None
    """Classifier-free guidance; by default the objective's own, 100 for PDS."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A hub id, a local diffusers folder, "toybox" or "studio"."""
    objective: str = "pds"
    """What moves the drawing: sds, dds, pds, vsd, piva, ssd, dvrf or dreamcatalyst."""
    steps: Steps = 1000
    """Steps of the optimiser, Adam."""
    out: Path = Path("outputs/svg")
    """Folder for the edited file, before_after.png, film.mp4, svg.json and the state of an unfinished edit."""
    resolution: Pixels | None = None
    """Shorter side in pixels of what the prior sees; by default the size it was trained at."""
    set: tuple[str, ...] = ()
    """Other settings as NAME=VALUE: of the objective (max-step-percent, weighting, regularisation …), or points-rate,
    colours-rate, widths-rate, seed, adapter-rank."""
    suffix: str | None = None
    """Added to both prompts; by default ", minimal flat 2d vector image", and nothing for toybox."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes CUDA if there is any."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Read, edit, write."""
        from pds_nerfstudio.priors.check import check_prior

        self._check_words()
        if not self.input.is_file():
            raise UserError(f"There is no file {self.input}: give an SVG file.")
        check_prior(self.prior)
        objective, settings = self._settings()
        from pds_nerfstudio.vector import read_drawing

        drawing = read_drawing(self.input)
        if self.input.resolve() == (self.out / self.input.name).resolve():
            raise UserError(f"--out {self.out} holds {self.input.name} itself, which is not written to: give another.")
        if not (self.out / STATE).is_file():  # of an edit that was interrupted
            require_own(self.out, (self.input.name, *OWN_FILES, INDEX), INDEX, "objective_settings")
        require_writable(self.out, room=ROOM)
        from rich.console import Console

        console = Console(soft_wrap=True, highlight=False)
        for remark in drawing.remarks:
            console.print(f"[yellow]{in_rich(self.input.name)}:[/] ", end="")
            console.print(visible(remark), markup=False)
        start = time.perf_counter()
        progress = self._edit(drawing, objective, settings)
        self._write(drawing, progress, objective, settings, time.perf_counter() - start)
        console.print(f"{self.out / self.input.name}, before_after.png and film.mp4 beside it", markup=False)
        say_next(console, self._next_steps())

    def _next_steps(self) -> list[NextStep]:
        """An edit of the edited drawing."""
        edited = self.out / self.input.name
        what = ["--prior", self.prior, "--objective", self.objective]
        further = self.out.with_name(f"{self.out.name}-further")
        line = ["pds", "svg", edited, "--from", self.tgt_prompt, "--to", PROMPTS[-1], *what]
        return [step("edit it further", *line, "--out", further)]

    def _check_words(self) -> None:
        """Raise UserError for an objective that edits no drawings, or prompts that make no edit."""
        if self.objective not in EDITORS or self.objective == SDEDIT:
            what = "SDEdit makes pixels and no drawing" if self.objective == SDEDIT else "There is no such objective"
            known = ", ".join(name for name in EDITORS if name != SDEDIT)
            raise UserError(f"{what}: --objective {self.objective!r} can be one of {known}.")
        check_prompts(self.src_prompt, self.tgt_prompt, needs_source=self.objective != "sds")

    def _settings(self) -> "tuple[ScoreDistillation, SvgSettings]":
        """The objective and the edit's settings.

        Raises:
            UserError: a prompt is missing, or a setting or value is unknown.
        """
        self._check_words()
        from pds_nerfstudio.pipelines.svg_settings import SvgSettings

        kind = known_editors()[self.objective]
        own = {name: hint for name, hint in get_type_hints(SvgSettings).items() if name != "steps"}
        chosen: dict[str, Any] = {"steps": self.steps, **OF_DRAWINGS.get(self.objective, {})}
        if self.guidance_scale is not None:
            chosen["guidance_scale"] = self.guidance_scale
        for text in self.set:
            name, values = parsed_setting(text, [kind], own)
            if len(values) != 1:
                raise UserError(f"--set {text!r} has several values, and one drawing is edited at a time: give one.")
            chosen[name] = values[0]
        try:
            return kind(**_those_of(kind, chosen)), SvgSettings(**_those_of(SvgSettings, chosen))
        except ValueError as error:
            raise UserError(str(error)) from error

    def _edit(self, drawing: "Drawing", objective: "ScoreDistillation", settings: "SvgSettings") -> "SvgProgress":
        import torch
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from pds_nerfstudio.pipelines.svg_edit import edit_drawing
        from pds_nerfstudio.priors.load import load_prior

        cuda = torch.cuda.is_available()
        if self.device == "cuda" and not cuda:
            raise UserError("--device cuda is not available on this machine: leave --device out.")
        console = Console()
        if warning := unknown_words(self.prior, *self._prompts()):
            console.print(f"[yellow]{in_rich(warning)}")
        console.print(f"[cyan]Loading the prior {in_rich(self.prior)}")
        prior = load_prior(self.prior, "cuda" if cuda and self.device == "auto" else self.device.replace("auto", "cpu"))
        columns = (TextColumn("editing"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("editing", total=settings.steps)
            return edit_drawing(
                prior,
                objective,
                drawing,
                *self._prompts(),
                settings,
                self.resolution,
                self.out / STATE,
                lambda step: bar.update(task, completed=step),
            )

    def _prompts(self) -> tuple[str, str]:
        suffix = self.suffix if self.suffix is not None else "" if self.prior in PACKAGED else SUFFIX
        return self.src_prompt + suffix, self.tgt_prompt + suffix

    def _write(
        self,
        drawing: "Drawing",
        progress: "SvgProgress",
        objective: "ScoreDistillation",
        settings: "SvgSettings",
        seconds: float,
    ) -> None:
        from pds_nerfstudio.files import write_whole
        from pds_nerfstudio.pictures import save_image, side_by_side, video
        from pds_nerfstudio.pipelines.svg_edit import picture
        from pds_nerfstudio.vector import write_drawing

        write_drawing(drawing, progress.values, self.out / self.input.name)
        frames = [picture(drawing, snapshot, PICTURE) for snapshot in progress.snapshots]
        before, after = self._prompts()
        save_image(side_by_side([frames[0], frames[-1]], (before, after)), self.out / "before_after.png")
        with video(self.out / "film.mp4") as write:
            for frame in [*frames, *[frames[-1]] * 20]:
                write(frame)
        record = {
            "input": str(self.input),
            "src_prompt": before,
            "tgt_prompt": after,
            "prior": self.prior,
            "objective": self.objective,
            "objective_settings": dataclasses.asdict(objective),
            "settings": dataclasses.asdict(settings),
            "seconds": round(seconds, 1),
            "remarks": list(drawing.remarks),
        }
        write_whole(self.out / INDEX, json.dumps(record, indent=2) + "\n")


def _those_of(kind: type, chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings that a dataclass has."""
    return {field.name: chosen[field.name] for field in dataclasses.fields(kind) if field.name in chosen}
