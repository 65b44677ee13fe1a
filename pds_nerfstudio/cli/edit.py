"""`pds edit`: the whole way from a reconstruction to an edited scene, as the commands that one would type by hand.

RUN ─► (pds dreambooth) ─► ns-train …-edit ─► (ns-train sdedit-refine) ─► pds render ─► pds evaluate

Each stage is a process of its own, its command is printed, and a finished one is not run again.
"""

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pds_nerfstudio.children import run_child
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import read_json, require_writable, write_whole
from pds_nerfstudio.prompts import check_prompts
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.scenes.source import SourceRun

STATE, LOCK = "edit.json", "edit.lock"
ROOM = 16 << 20
"""Bytes that an edit takes at least."""
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

    def __post_init__(self) -> None:
        self._started: set[str] = set()
        self._held: IO[str] | None = None

    def run(self) -> None:
        """Run the stages that are not finished, and sum up."""
        stages = self.stages()
        require_writable(self.out, room=ROOM)
        done = self._finished(stages)
        self._lock()
        self._keep(stages, done)
        console = Console(soft_wrap=True, highlight=False)
        for number, stage in enumerate(stages, start=1):
            console.print(
                f"\n[bold]{number}/{len(stages)} {stage.name}[/]{' (finished before)' * (stage.name in done)}"
            )
            console.print(stage.line, style="cyan", markup=False)
            if stage.name not in done:
                if stage.name in TRAININGS:
                    self._clear(stage)
                self._started.add(stage.name)
                self._keep(stages, done)
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
            stages.append(
                Stage("dreambooth", (*command, *_words("--dreambooth-args", self.dreambooth_args)), Path(prior))
            )
        prompts = ("--pipeline.src-prompt", self.src_prompt, "--pipeline.tgt-prompt", self.tgt_prompt)
        what = (*prompts, "--pipeline.prior", prior)
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
        command = ("pds", "render", *between, str(films), *_words("--render-args", self.render_args))
        stages.append(Stage("render", command, films))
        command = ("pds", "evaluate", *between, str(report), *_words("--evaluate-args", self.evaluate_args))
        stages.append(Stage("evaluate", command, report / "report.html"))
        return stages

    def _training(self, name: str, method: str, scene: Path, what: Sequence[str], more: str) -> Stage:
        command = ("ns-train", method, "--load-dir", str(scene), *what, "--output-dir", str(self.out))
        command += ("--experiment-name", name, "--timestamp", "run", "--vis", "tensorboard")
        command += (
            "--viewer.quit-on-train-completion",
            "True",
            *_words(f"--{'edit' if name == 'edit' else 'refine'}-args", more),
        )
        return Stage(name, command, self.out / name / method / "run")

    def _finished(self, stages: Sequence[Stage]) -> dict[str, float]:
        """Seconds of the stages that an earlier call of the same command has finished.

        Raises:
            UserError: the folder holds something else.
        """
        file = self.out / STATE
        if not file.is_file():
            if self.out.is_dir() and any(path.name != LOCK for path in self.out.iterdir()):
                raise UserError(f"--out {self.out} is not empty: give a folder that is new.")
            return {}
        before = _read_state(file)
        now = {stage.name: stage.line for stage in stages}
        for name, entry in before.items():
            if entry["seconds"] is not None and now.get(name) != entry["command"]:
                raise UserError(
                    f"--out {self.out} holds an edit whose stage {name} was another command ({entry['command']}): give "
                    "a folder that is new, or the arguments of that edit."
                )
        self._started |= {name for name, entry in before.items() if entry.get("started")}
        return {name: entry["seconds"] for name, entry in before.items() if entry["seconds"] is not None}

    def _keep(self, stages: Sequence[Stage], done: dict[str, float]) -> None:
        entries = [
            {"name": s.name, "command": s.line, "started": s.name in self._started, "seconds": done.get(s.name)}
            for s in stages
        ]
        write_whole(self.out / STATE, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")

    def _lock(self) -> None:
        """Keep others out of the folder for as long as this process or a stage that it began lives.

        Raises:
            UserError: one of an earlier call still does.
        """
        try:
            import fcntl
        except ImportError:  # Windows has other locks
            return
        self.out.mkdir(parents=True, exist_ok=True)
        self._held = (self.out / LOCK).open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"A stage of an earlier call is still writing to --out {self.out}: wait for it, or end it."
            ) from error

    def _clear(self, stage: Stage) -> None:
        """Remove what an interrupted training has left, and nothing else.

        Raises:
            UserError: no call of this command has begun what is there, or a link leads elsewhere.
        """
        folder = stage.result
        if not (folder.exists() or folder.is_symlink()):
            return
        inside = folder.relative_to(self.out)
        links = [self.out / part for part in (inside, *inside.parents) if (self.out / part).is_symlink()]
        if stage.name not in self._started or (links and links != [self.out]):
            raise UserError(f"{folder} was not made by this edit: move it away, or give a folder that is new.")
        shutil.rmtree(folder)

    def _execute(self, stage: Stage) -> float:
        """Run a stage, its output on this terminal; returns its seconds."""
        beside = Path(sys.executable).parent / stage.command[0]
        program = str(beside) if beside.is_file() else stage.command[0]
        start = time.perf_counter()
        try:
            code = run_child([program, *stage.command[1:]], [self._held.fileno()] if self._held else ())
        except FileNotFoundError as error:
            raise UserError(
                f"There is no command {stage.command[0]}: install nerfstudio into this Python's environment."
            ) from error
        if code in (-2, 130, -15, 143):
            print(f"Interrupted in the stage {stage.name}: the same command goes on with it.", file=sys.__stderr__)
            raise SystemExit(130 if code in (-2, 130) else 143)
        if code == 0 and not self._has_result(stage):
            code = "no result"
        if code != 0:
            raise UserError(
                f"The stage {stage.name} ended with {code}, for the reason above: run the same command again to go on "
                "with this stage, or other arguments in a new --out."
            )
        return round(time.perf_counter() - start, 1)

    @staticmethod
    def _has_result(stage: Stage) -> bool:
        """Whether a stage that ended without an error has made what the next one needs."""
        return any(stage.result.rglob("step-*.ckpt")) if stage.name in TRAININGS else stage.result.exists()

    def _summary(self, stages: Sequence[Stage], done: dict[str, float], console: Console) -> None:
        title = f"“{in_rich(self.src_prompt)}” → “{in_rich(self.tgt_prompt)}”"
        table = Table("stage", "seconds", "result", title=title)
        for stage in stages:
            table.add_row(stage.name, f"{done[stage.name]:.0f}", in_rich(stage.result))
        console.print()
        console.print(table, soft_wrap=False)
        for name, shown in _measured(stages[-1].result.parent / "report.json"):
            console.print(f"  {in_rich(name)}: [bold]{in_rich(shown)}[/]")
        *_, edited = (stage.result for stage in stages if stage.name in TRAININGS)
        line = shlex.join(["ns-viewer", "--load-config", str(edited / "config.yml")])
        console.print(f"To walk around it: {line}", markup=False)


def _words(flag: str, text: str) -> list[str]:
    """The arguments in one string, split as a shell splits them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{flag} {text!r} cannot be split into arguments ({error}): close its quotes.") from error


def _read_state(file: Path) -> dict[str, dict[str, Any]]:
    """What an earlier call has recorded of its stages, by name.

    Raises:
        UserError: it cannot be read.
    """
    entries = read_json(file, list, "The record", "give --out a folder that is new")
    kinds = {"name": str, "command": str, "seconds": int | float | None}
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
            raise UserError(f"The record {file} is damaged: give --out a folder that is new.")
    return {entry["name"]: entry for entry in entries}


def _measured(path: Path) -> list[tuple[str, str]]:
    """Name and value of every number of a report of one run.

    Raises:
        UserError: it cannot be read.
    """
    remedy = "run `pds evaluate` on the edited run again"
    report = read_json(path, dict, "The report", remedy)
    try:
        means, metrics = report["runs"][0]["mean"], report["metrics"]
        known = {key: value for key, value in means.items() if value is not None}
        return [(metrics[k]["name"], v if isinstance(v, str) else f"{v:.3f}") for k, v in known.items()]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"The report {path} is damaged ({error!r}): {remedy}.") from error
