"""`pds edit`: the whole way from a reconstruction to an edited scene, as the commands that one would type by hand.

RUN ─► (pds dreambooth) ─► ns-train …-edit ─► (ns-train sdedit-refine) ─► pds render ─► pds evaluate

Each stage is a process of its own, its command is printed, and a finished one is not run again.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.prompts import check_prompts

if TYPE_CHECKING:
    from pds_nerfstudio.scenes.source import SourceRun

STATE = "edit.json"
TRAININGS = ("edit", "refinement")
"""Stages of `ns-train`, whose result is a run."""


@dataclass(frozen=True)
class Stage:
    """One command, and where its result is."""

    name: str
    command: tuple[str, ...]
    result: Path

    @property
    def line(self) -> str:
        """The command as it can be typed."""
        return shlex.join(self.command)


@dataclass
class Edit:
    """Edit a scene from start to end: finetune the prior if asked, edit, refine, film before and after, measure.

    The same command again goes on with the stage that was interrupted. Arguments of a stage are those of its command.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """The reconstruction: a run's folder."""
    src_prompt: Annotated[str, tyro.conf.arg(aliases=("--from",))] = ""
    """What the scene shows."""
    tgt_prompt: Annotated[str, tyro.conf.arg(aliases=("--to",))] = ""
    """What it should show."""
    method: str = "pnr-edit"
    """pnr-edit, pds-edit, dds-edit …; of splats, -splat is added."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A hub id, a local diffusers folder, a LoRA's folder, or "toybox"."""
    class_prompt: str = ""
    """What the scene shows without the rare word that --src-prompt has for it: with it, DreamBooth comes first."""
    dreambooth_args: str = ""
    """Further arguments of `pds dreambooth`, in one string: --dreambooth-args="--steps 400 --layers all"."""
    edit_args: str = ""
    """Further arguments of `ns-train`: --edit-args="--pipeline.objective.guidance-scale 30"."""
    refine: bool = True
    """Refine the edited scene by SDEdit."""
    refine_args: str = ""
    """Further arguments of that `ns-train`."""
    render_args: str = ""
    """Further arguments of `pds render`."""
    evaluate_args: str = ""
    """Further arguments of `pds evaluate`."""
    out: Path = Path("outputs/edit")
    """Folder of everything that is made."""

    def run(self) -> None:
        """Run the stages that are not finished, and sum up."""
        stages = self.stages()
        done = self._finished(stages)
        console = Console(soft_wrap=True, highlight=False)
        for number, stage in enumerate(stages, start=1):
            console.print(
                f"\n[bold]{number}/{len(stages)} {stage.name}[/]{' (finished before)' * (stage.name in done)}"
            )
            console.print(stage.line, style="cyan", markup=False)
            if stage.name not in done:
                if stage.name in TRAININGS:
                    shutil.rmtree(stage.result, ignore_errors=True)  # what an interrupted one has left
                done[stage.name] = self._execute(stage)
                self._keep(stages, done)
        self._summary(stages, done, console)

    def stages(self) -> list[Stage]:
        """What will run, in order.

        Raises:
            UserError: prompts are missing or equal, or the run, the method or the prior is none.
        """
        check_prompts(self.src_prompt, self.tgt_prompt)
        from pds_nerfstudio.priors.check import check_prior

        check_prior(self.prior)
        from pds_nerfstudio.methods import METHODS
        from pds_nerfstudio.scenes.source import find_run

        source = find_run(self.run_folder, called="RUN")
        method = self.method.removesuffix("-splat") + "-splat" * (source.family == "splatfacto")
        if method not in METHODS or not method.removesuffix("-splat").endswith("-edit"):
            known = [name for name in METHODS if name.endswith("-edit")]
            raise UserError(f"There is no method {self.method!r}: choose among {', '.join(known)}.")
        return self._commands(source, method)

    def _commands(self, source: "SourceRun", method: str) -> list[Stage]:
        run, stages, prior = source.config_path.parent, [], self.prior
        if self.class_prompt:
            prior = str(self.out / "prior")
            command = ["pds", "dreambooth", "--load-config", str(source.config_path), "--prior", self.prior]
            command += ["--instance-prompt", self.src_prompt, "--class-prompt", self.class_prompt, "--out", prior]
            stages.append(Stage("dreambooth", (*command, *shlex.split(self.dreambooth_args)), Path(prior)))
        what = (
            "--pipeline.src-prompt",
            self.src_prompt,
            "--pipeline.tgt-prompt",
            self.tgt_prompt,
            "--pipeline.prior",
            prior,
        )
        edit = self._training("edit", method, source.checkpoint_path.parent, what, self.edit_args)
        edited = edit.result
        stages.append(edit)
        if self.refine:
            method = "sdedit-refine" + "-splat" * (source.family == "splatfacto")
            scene = edited / source.config.relative_model_dir
            stages.append(self._training("refinement", method, scene, (), self.refine_args))
            edited = stages[-1].result
        between = (str(edited), "--source", str(run), "--out")
        films, report = self.out / "renders", self.out / "evaluation"
        command = ("pds", "render", *between, str(films), *shlex.split(self.render_args))
        stages.append(Stage("render", command, films))
        command = ("pds", "evaluate", *between, str(report), *shlex.split(self.evaluate_args))
        stages.append(Stage("evaluate", command, report / "report.html"))
        return stages

    def _training(self, name: str, method: str, scene: Path, what: Sequence[str], more: str) -> Stage:
        command = ("ns-train", method, "--load-dir", str(scene), *what, "--output-dir", str(self.out))
        command += ("--experiment-name", name, "--timestamp", "run", "--vis", "tensorboard")
        command += ("--viewer.quit-on-train-completion", "True", *shlex.split(more))
        return Stage(name, command, self.out / name / method / "run")

    def _finished(self, stages: Sequence[Stage]) -> dict[str, float]:
        """Seconds of the stages that an earlier call of the same command has finished.

        Raises:
            UserError: the folder holds something else.
        """
        file = self.out / STATE
        if not file.is_file():
            if self.out.is_dir() and any(self.out.iterdir()):
                raise UserError(f"--out {self.out} is not empty: give a folder that is new.")
            self._keep(stages, {})
            return {}
        before = {entry["name"]: entry for entry in json.loads(file.read_text(encoding="utf8"))}
        now = {stage.name: stage.line for stage in stages}
        for name, entry in before.items():
            if entry["seconds"] is not None and now.get(name) != entry["command"]:
                raise UserError(
                    f"--out {self.out} holds an edit whose stage {name} was another command ({entry['command']}): give "
                    "a folder that is new, or the arguments of that edit."
                )
        return {name: entry["seconds"] for name, entry in before.items() if entry["seconds"] is not None}

    def _keep(self, stages: Sequence[Stage], done: dict[str, float]) -> None:
        entries = [{"name": s.name, "command": s.line, "seconds": done.get(s.name)} for s in stages]
        write_whole(self.out / STATE, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")

    def _execute(self, stage: Stage) -> float:
        """Run a stage, its output on this terminal; returns its seconds."""
        beside = Path(sys.executable).parent / stage.command[0]
        program = str(beside) if beside.is_file() else stage.command[0]
        start = time.perf_counter()
        code = subprocess.run([program, *stage.command[1:]], check=False).returncode
        if code != 0:
            raise UserError(
                f"The stage {stage.name} ended with {code}, for the reason above: run the same command again to go on "
                "with this stage, or other arguments in a new --out."
            )
        return round(time.perf_counter() - start, 1)

    def _summary(self, stages: Sequence[Stage], done: dict[str, float], console: Console) -> None:
        table = Table("stage", "seconds", "result", title=f"“{self.src_prompt}” → “{self.tgt_prompt}”")
        for stage in stages:
            table.add_row(stage.name, f"{done[stage.name]:.0f}", str(stage.result))
        console.print()
        console.print(table, soft_wrap=False)
        report = json.loads((self.out / "evaluation" / "report.json").read_text(encoding="utf8"))
        for key, value in report["runs"][0]["mean"].items():
            if value is not None:
                shown = value if isinstance(value, str) else f"{value:.3f}"
                console.print(f"  {report['metrics'][key]['name']}: [bold]{shown}[/]")
        *_, edited = (stage.result for stage in stages if stage.name in TRAININGS)
        console.print(f"To walk around it: ns-viewer --load-config {edited / 'config.yml'}")
