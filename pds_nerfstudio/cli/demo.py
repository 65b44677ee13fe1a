"""`pds demo`: the whole job on a toybox scene, where the right answer is known.

    toybox scene ─► source-splatfacto ─► pds-edit-splat ─► held-out views against the ground truth ─► .ply

Both trainings run nerfstudio's own `ns-train` code.
"""

import dataclasses
import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from pds_nerfstudio.errors import UserError

Family = Literal["splatfacto", "nerfacto"]
METHOD: dict[Family, str] = {"splatfacto": "pds-edit-splat", "nerfacto": "pds-edit"}
PACKAGES = ("pds-nerfstudio", "nerfstudio", "gsplat", "torch", "diffusers", "transformers")


@dataclass
class Demo:
    """Build a toybox scene, reconstruct it, edit it from text, and compare it with what it should have become."""

    edit: str = "can-to-cone"
    """Which toybox edit; an unknown name lists the known ones."""
    family: Family = "splatfacto"
    """What the scene is reconstructed as."""
    out: Path = Path("outputs/demo")
    """Folder for everything; an earlier demo there is replaced."""
    steps: int | None = None
    """Edit steps; by default what the family needs."""
    reconstruction_steps: int | None = None
    """Steps of the reconstruction before; by default what the family needs."""
    guidance_scale: float | None = None
    """Classifier-free guidance of the edit; by default what the family needs."""
    seed: int = 0
    """Seed of the cameras, the reconstruction and the edit."""

    def run(self) -> None:
        """Run every stage and say where the results are."""
        from pds_nerfstudio.toybox.dataset import write_edit
        from pds_nerfstudio.toybox.spec import find_edit

        try:
            edit = find_edit(self.edit)
        except ValueError as error:
            raise UserError(str(error)) from error
        self._clear()
        console = Console(file=sys.stdout)
        seconds: dict[str, float] = {}
        scene, method = self.out / "scene", METHOD[self.family]

        console.print(f"[bold]“{edit.source_prompt}” → “{edit.target_prompt}”")
        with self._stage("scene", "Rendering the scene and its ground truth", console, seconds):
            write_edit(edit, scene, seed=self.seed)
        with self._stage("import", "Loading nerfstudio", console, seconds):
            from pds_nerfstudio.evaluation import trial
            from pds_nerfstudio.pipelines import trainer

            trainer.progress_console = console
        settings = trial.SETTINGS[self.family]
        given = {
            "edit_steps": self.steps,
            "reconstruction_steps": self.reconstruction_steps,
            "guidance_scale": self.guidance_scale,
        }
        settings = dataclasses.replace(settings, **{name: value for name, value in given.items() if value is not None})
        with self._stage("reconstruct", f"Reconstructing it: ns-train source-{self.family}", console, seconds):
            source = trial.reconstruct(
                self.family, scene / "source", self.out, settings.reconstruction_steps, self.seed
            )
        with self._stage("edit", f"Editing it: ns-train {method}", console, seconds):
            edited = trial.run_edit(method, source, edit, self.out, settings, self.seed)
        with self._stage(
            "evaluate", "Comparing held-out views with the ground truth, filming an orbit", console, seconds
        ):
            numbers = trial.compare(edit, scene, source, edited, self.out)
        with self._stage("export", "Exporting the edited scene", console, seconds):
            exported = trial.export(edited, self.out)

        report = {
            "edit": edit.name,
            "source_prompt": edit.source_prompt,
            "target_prompt": edit.target_prompt,
            "method": method,
            "settings": dataclasses.asdict(settings),
            **numbers,
            "seconds": {**seconds, "total": sum(seconds.values())},
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "seed": self.seed,
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        self._summary(report, edited, exported, console)

    def _clear(self) -> None:
        """Remove an earlier demo, and nothing else."""
        if self.out.exists():
            if any(self.out.iterdir()) and not (self.out / "log.txt").exists():
                raise UserError(f"{self.out} holds something other than a demo: choose another folder with --out.")
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True)

    @contextmanager
    def _stage(self, name: str, title: str, console: Console, seconds: dict[str, float]) -> Iterator[None]:
        """Announce and time a stage; what the libraries print in it goes to `log.txt`."""
        console.print(f"[cyan]{title}")
        start = time.perf_counter()
        with (self.out / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            yield
        seconds[name] = round(time.perf_counter() - start, 1)

    def _summary(self, report: dict[str, Any], edited: Path, exported: Path, console: Console) -> None:
        console.print(
            f"\nPSNR to the ground truth {report['psnr_to_target_before']:.1f} → "
            f"[bold]{report['psnr_to_target_after']:.1f} dB[/], background kept to {report['background_psnr']:.1f} dB, "
            f"target recognised with probability {report['target_probability_before']:.2f} → "
            f"[bold]{report['target_probability_after']:.2f}[/], {report['seconds']['total']:.0f} s."
        )
        rows = (
            ("contact_sheet.png", "look here first: source, edited, ground truth, differences"),
            ("orbit.mp4", "before and after, side by side"),
            (exported.relative_to(self.out), "the edited scene for any viewer of that format"),
            ("report.json", "all numbers"),
        )
        for file, what in rows:
            console.print(f"  {self.out / file}  [dim]{what}")
        console.print(f"  ns-viewer --load-config {edited}  [dim]walk around it")
