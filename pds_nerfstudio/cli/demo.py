"""`pds demo`: the whole job on scenes whose right answer is known, of toybox or of studio.

    scene ─► source-splatfacto ─► pnr-edit-splat ─► sdedit-refine-splat ─► held-out views against truth ─► .ply

All trainings run nerfstudio's own `ns-train` code, by the settings of the prior's recipe, as `ns-train` itself does.
"""

import dataclasses
import json
import platform
import resource
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.alive import held, is_running
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import appended, require_writable, start_over, write_whole
from pds_nerfstudio.ranges import Guidance, Seed, Steps, check_ranges
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.studio_trial import Stills
    from pds_nerfstudio.evaluation.trial import Toy
    from pds_nerfstudio.pictures import Images
    from pds_nerfstudio.studio.spec import StudioEdit
    from pds_nerfstudio.toybox.spec import ToyEdit

World = Literal["toybox", "studio"]
Family = Literal["splatfacto", "nerfacto"]
Objective = Literal["pds", "pnr"]
OWN_FILES = ("contact_sheet.png", "report.json", "log.txt")
"""What a demo writes, beside a folder for each edit."""
REFINE = "sdedit-refine"
ROOM = 32 << 20
"""Bytes that a demo takes at least."""
PACKAGES = ("pds-nerfstudio", "nerfstudio", "gsplat", "torch", "diffusers", "transformers")
TOYS: tuple[World, Family] = ("toybox", "splatfacto")
SHOWN: dict[tuple[World, Family], tuple[tuple[str, Objective], ...]] = {
    TOYS: (("can-to-cone", "pnr"), ("red-to-blue", "pnr")),
    ("toybox", "nerfacto"): (("can-to-cone", "pnr"),),
    ("studio", "splatfacto"): (("teapot-hat", "pnr"),),
}
"""What the demo shows unless asked for something else: a change of shape, then one of colour; on NeRFs, which take
many times as long, a small change of shape; of studio, whose scenes are larger, an addition."""

ENOUGH = 400
"""Steps of the two edits shown of toybox's splats: refined, they are as good as after the recipe's 500 and 800 (in the
mask 28.9 and 27.8 dB after 400, 29.0 and 27.7 after those), in two thirds of the time."""


@dataclass
class Demo:
    """Build scenes, reconstruct and edit them, and compare them with what they should have become."""

    edit: str | None = None
    """Which edit; an unknown name lists the known ones. By default one of shape, and on splats one of colour; of studio
    an addition."""
    world: World = "toybox"
    """What is edited: small coloured shapes (toybox), or photographs of still lifes that come with the package
    (studio), ten minutes of a CPU for an edit."""
    method: Objective | None = None
    """By what: "pds", or "pnr" (perturb and revise; a change of colour and an addition leave all but the relevant part
    as it is)."""
    family: Family = "splatfacto"
    """What the scenes are reconstructed as."""
    out: Path = Path("outputs/demo")
    """Folder for everything; an earlier demo there is replaced."""
    steps: Annotated[int, Ge(4), Le(1_000_000)] | None = None
    """Edit steps; by default those of the prior's recipe, or, of the two edits that toybox's splats show, fewer."""
    reconstruction_steps: Steps | None = None
    """Steps of the reconstruction before; by default what the family needs."""
    guidance_scale: Guidance | None = None
    """Classifier-free guidance of the edit; by default that of the prior's recipe."""
    refine: bool = True
    """Refine edited splats by SDEdit; NeRFs, of which it is not measured, are left as they are."""
    seed: Seed = 0
    """Seed of the cameras, the reconstruction and the edit."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.world, self.family) not in SHOWN:
            raise UserError("The scenes of --world studio are reconstructed as splats: leave --family out.")

    def run(self) -> None:
        """Run every stage of every edit and say where the results are."""
        if self.world == "studio":
            from pds_nerfstudio.studio.spec import find_edit
        else:
            from pds_nerfstudio.toybox.spec import find_edit

        jobs: list[tuple[ToyEdit | StudioEdit, Objective]]
        if self.edit is None:
            jobs = [(find_edit(name), self.method or method) for name, method in SHOWN[self.world, self.family]]
        else:
            try:
                edit = find_edit(self.edit)
            except ValueError as error:
                raise UserError(str(error)) from error
            jobs = [(edit, self.method or "pnr")]
        require_writable(self.out, room=ROOM)
        if is_running(self.out):
            raise UserError(f"Another demo is writing to --out {self.out}: wait for it, or give another folder.")
        with held(self.out):
            self._run(jobs)

    def _run(self, jobs: "list[tuple[ToyEdit | StudioEdit, Objective]]") -> None:
        """In a folder that is this demo's alone."""
        start_over(self.out, "pds demo", [*(edit.name for edit, _ in jobs), *OWN_FILES])
        console = Console(file=sys.stdout)
        started: dict[str, float] = {}
        with self._stage("import", "Loading nerfstudio", console, started):
            from pds_nerfstudio.evaluation import trial  # noqa: F401 - what it loads may warn
            from pds_nerfstudio.pictures import contact_sheet
            from pds_nerfstudio.pipelines import scene_trainer

            scene_trainer.progress_console = console
        outcomes = [self._edit(edit, method, console) for edit, method in jobs]
        rows = {}
        for outcome in outcomes:
            labels = (
                outcome.report["source_prompt"].removeprefix("a photo of "),
                f"{outcome.report['method']}: {outcome.report['edit']}",
                f"truth: {outcome.report['target_prompt'].removeprefix('a photo of ')}",
            )
            rows |= dict(zip(labels, outcome.pictures, strict=True))
        contact_sheet(rows, self.out / "contact_sheet.png", "held-out views: before, edited, ground truth")

        reports = [outcome.report for outcome in outcomes]
        stages = dict.fromkeys(name for report in reports for name in report["seconds"])
        seconds = {name: sum(r["seconds"].get(name, 0.0) for r in reports) for name in stages} | started
        report = reports[0] | {
            "edits": {r["edit"]: r for r in reports},
            "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "seed": self.seed,
        }
        write_whole(self.out / "report.json", json.dumps(report, indent=2) + "\n")
        self._summary(outcomes, report["seconds"]["total"], console)

    def _benchmark(self, given: dict[str, Any]) -> "Toy | Stills":
        """How scenes of the world are written, reconstructed, edited and compared."""
        from pds_nerfstudio.evaluation import trial
        from pds_nerfstudio.evaluation.capture import CaptureSettings
        from pds_nerfstudio.evaluation.studio_trial import Stills

        named = {name: value for name, value in given.items() if value is not None}
        if self.world == "studio":
            return Stills(self.family, CaptureSettings(**named))
        guidance = {} if self.guidance_scale is None else {"guidance_scale": self.guidance_scale}
        return trial.Toy(self.family, dataclasses.replace(trial.SETTINGS[self.family], **named, **guidance))

    def _edit(self, edit: Any, method: Objective, console: Console) -> "Outcome":
        """One edit, from its scene to its export."""
        from pds_nerfstudio.evaluation import renders, trial
        from pds_nerfstudio.evaluation.rows import of_family

        given: dict[str, Any] = {"edit_steps": self._steps(edit, method)}
        given["reconstruction_steps"] = self.reconstruction_steps
        benchmark = self._benchmark(given)
        given["guidance_scale"] = self.guidance_scale
        name = of_family(f"{method}-edit", self.family)
        out, seconds = self.out / edit.name, {}
        console.print(f"\n[bold]“{edit.source_prompt}” → “{edit.target_prompt}”")
        with self._stage("scene", "Writing the scene and its ground truth", console, seconds):
            benchmark.write(edit, out, self.seed)
        with self._stage("reconstruct", f"Reconstructing it: ns-train source-{self.family}", console, seconds):
            source = benchmark.reconstructed(out, self.seed)
        with self._stage("edit", f"Editing it: ns-train {name}", console, seconds):
            edited = benchmark.edit(f"{method}-edit", self._changes(), source, edit, out, self.seed)
        names = [name]
        if self.refine and self.family == "splatfacto":
            names.append(of_family(REFINE, self.family))
            with self._stage("refine", f"Refining it: ns-train {names[-1]}", console, seconds):
                edited = benchmark.edit(REFINE, {}, edited, edit, out, self.seed)
        with self._stage(
            "evaluate", "Comparing held-out views with the ground truth, filming an orbit", console, seconds
        ):
            comparison = benchmark.compare(edit, out, source, edited)
            comparison.sheet(out / "contact_sheet.png")
            pictures = benchmark.to_look_at(edit, out, source, edited, comparison)
            trial.film(edit, source, edited, out / "orbit.mp4")
        with self._stage("export", "Exporting the edited scene", console, seconds):
            mesh: dict[str, Any] = {"resolution": 96, "batch_size": 4, "num_pixels_per_side": 256}  # for 64-pixel views
            exported = renders.export(edited, self.family, out / "export", "edited.ply", **mesh)
        report = {
            "edit": edit.name,
            "source_prompt": edit.source_prompt,
            "target_prompt": edit.target_prompt,
            "method": " + ".join(names),
            "settings": given,
            **comparison.numbers,
            "seconds": seconds,
        }
        return Outcome(report, pictures, edited, exported)

    def _steps(self, edit: Any, method: Objective) -> int | None:
        """Steps of an edit; None for the recipe's."""
        shown = (self.world, self.family) == TOYS and (edit.name, method) in SHOWN[TOYS]
        return ENOUGH if self.steps is None and self.refine and shown else self.steps

    def _changes(self) -> dict[str, Any]:
        """What a studio edit is told besides; a toybox edit is told it by its settings."""
        if self.world == "toybox" or self.guidance_scale is None:
            return {}
        return {"pipeline.objective.guidance_scale": self.guidance_scale}

    @contextmanager
    def _stage(self, name: str, title: str, console: Console, seconds: dict[str, float]) -> Iterator[None]:
        """Announce and time a stage; what the libraries print in it goes to `log.txt`."""
        console.print(f"[cyan]{title}")
        start = time.perf_counter()
        with appended(self.out / "log.txt") as log, redirect_stdout(log), redirect_stderr(log):
            yield
        seconds[name] = round(time.perf_counter() - start, 1)

    def _summary(self, outcomes: "list[Outcome]", seconds: float, console: Console) -> None:
        console.print()
        for outcome in outcomes:
            report = outcome.report
            console.print(
                f"{report['edit']} by {report['method']}: PSNR to the ground truth "
                f"{report['psnr_to_target_before']:.1f} → [bold]{report['psnr_to_target_after']:.1f} dB[/], background "
                f"kept to {report['background_psnr']:.1f} dB, target recognised with probability "
                f"{report['target_probability_before']:.2f} → [bold]{report['target_probability_after']:.2f}[/]."
            )
        lines = [(self.out / "contact_sheet.png", "before, edited, ground truth")]
        for outcome in outcomes:
            lines += [
                (self.out / outcome.report["edit"] / "orbit.mp4", "before and after, side by side"),
                (outcome.exported, "the edited scene for any viewer of that format"),
                (f"ns-viewer --load-config {shlex.quote(str(outcome.edited))}", "walk around it"),
            ]
        console.print(f"{seconds:.0f} s in all. Look here first:")
        for what, purpose in [*lines, (self.out / "report.json", "all numbers")]:
            console.print(f"  {in_rich(what)}   [dim]# {in_rich(purpose)}", soft_wrap=True)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one edit."""

    report: dict[str, Any]
    pictures: "tuple[Images, Images, Images]"
    """Its held-out views, before and after, and as they should be."""
    edited: Path
    """The edited run's `config.yml`."""
    exported: Path
    """The edited scene as a file of its own."""
