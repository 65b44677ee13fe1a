"""`pds edit`: the whole way from a reconstruction to an edited scene, as the commands that one would type by hand.

RUN ─► (pds dreambooth) ─► (pds preview) ─► ns-train …-edit ─► (ns-train sdedit-refine) ─► pds render ─► pds evaluate

Each stage is a process of its own, its command is printed, and a finished one is not run again; a training that was
interrupted goes on from its last checkpoint.
"""

import itertools
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from pds_nerfstudio.children import A_STAGE, run_child
from pds_nerfstudio.cli.edit_record import Record
from pds_nerfstudio.cli.stages import Stage, progress, refuse_unknown, words_of
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.estimates import estimates
from pds_nerfstudio.files import read_json, require_writable
from pds_nerfstudio.next_steps import after_edit, say_loading, say_next
from pds_nerfstudio.priors.dreambooth_settings import CARD
from pds_nerfstudio.priors.families import PACKAGED
from pds_nerfstudio.prompts import check_prompts, require_known, sought, unknown_words
from pds_nerfstudio.runs import Run, behind_latest, data_gone, require_run
from pds_nerfstudio.text import choices, in_rich, printable

METHODS = (
    *("pnr-edit", "pds-edit", "dds-edit", "sds-edit", "piva-edit", "ssd-edit", "dvrf-edit", "dreamcatalyst-edit"),
    *("vsd-edit", "idu-edit"),
)
"""Those of `pds_nerfstudio.methods` that edit, without their -splat; importing that takes a quarter of a minute."""
CAPTIONED = 3
"""Photographs that a captioning model is shown at most, evenly chosen."""
ROOM = 16 << 20
"""Bytes that an edit takes at least."""
SHORT = {"src_prompt": "from", "tgt_prompt": "to"}
"""How a flag is shown that has two names."""
STOPPED = {-2: 130, 130: 130, -15: 143, 143: 143}
"""Exit codes of a child that was asked to stop, and what a shell makes of them."""
PAGE = (
    "Its page in the viewer is at the address that it prints: http://localhost:7007, or the next port that is free. "
    'Every stage of ns-train opens a page of its own; without one: --{}-args="--vis tensorboard".'
)


@dataclass
class Edit:
    """Edit a scene from start to end: edit it, refine it, film it before and after, and measure it.

    With --class-prompt, the prior is finetuned first. The stages are separate commands; to pass one of them further
    arguments, use its flag that ends in -args. Run the same command again to continue after an interruption.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """The reconstruction: a run's folder."""
    src_prompt: Annotated[str, tyro.conf.arg(aliases=("--from",))] = ""
    """What the scene shows now. Without it, a captioning model proposes a prompt, and asks you."""
    tgt_prompt: Annotated[str, tyro.conf.arg(aliases=("--to",))] = ""
    """What the scene should show, for example "a photo of a man wearing a hat"."""
    recipe: tuple[str, ...] = ()
    """Which settings to start from: a kind of edit (colour, addition, shape, style, object), a quality (quick, quality)
    and low-vram for little memory, one or several; a recipe's file; or none. By default the prompts and the machine
    decide."""
    region: str = ""
    """Change only what these words name, for example "the hat"."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A hub id, a local diffusers folder, a LoRA's folder, "toybox" or "studio"."""
    method: str = "pnr-edit"
    """The method: pnr-edit, pds-edit, dds-edit … For splats, -splat is added to the name."""
    refine: bool = True
    """Refine the edited scene by SDEdit."""
    preview_first: bool = False
    """Try the prompts on a photograph first, in two dimensions, and ask before editing the scene."""
    caption: str = "auto"
    """The captioning model that proposes a source prompt: a folder or hub id. By default, a BLIP or GIT model in the
    hub's cache."""
    out: Path = Path("outputs/edit")
    """Folder for all results."""
    edit_args: str = ""
    """Further arguments of `ns-train`: --edit-args="--pipeline.objective.guidance-scale 30"."""
    lora: tuple[str, ...] = ()
    """LoRAs to add to the prior, PATH[:weight] each."""
    embedding: tuple[Path, ...] = ()
    """Textual inversions (.safetensors) to load. Write a file's name in a prompt to use it."""
    class_prompt: str = ""
    """Finetune the prior on this scene first (DreamBooth). The source prompt without its rare word, for example "a
    photo of a man" where --from is "a photo of a sks man"."""
    dreambooth_args: str = ""
    """Further arguments of `pds dreambooth`, in one string: --dreambooth-args="--steps 400 --layers all"."""
    refine_args: str = ""
    """Further arguments of the refinement's `ns-train`, in one string: --refine-args="--vis tensorboard"."""
    render_args: str = ""
    """Further arguments of `pds render`, in one string: --render-args="--paths orbit"."""
    evaluate_args: str = ""
    """Further arguments of `pds evaluate`, in one string: --evaluate-args="--frames 48"."""

    def __post_init__(self) -> None:
        self.record = Record(self.out)

    def run(self) -> None:
        """Run the stages that are not finished, and sum up."""
        self._complete_prompts()
        stages = self.stages()
        require_writable(self.out, room=ROOM)
        done = self.record.finished(stages)
        self._check_arguments([stage for stage in stages if stage.name not in done])  # those were read before
        self.record.lock()
        done = self.record.finished(stages)  # nobody else changes it any more
        self.record.call = self.line()
        self.record.keep(stages, done)
        console = Console(soft_wrap=True, highlight=False)
        self._warn(console)
        self._say_cost(stages, console)
        for number, stage in enumerate(stages, start=1):
            console.print(
                f"\n[bold]{number}/{len(stages)} {stage.name}[/]{' (finished before)' * (stage.name in done)}"
            )
            if stage.name in done:
                console.print(stage.line, style="cyan", markup=False)
                continue
            self.record.begin(stage)
            self.record.keep(stages, done)
            command = stage.next_command()
            if command != stage.command:
                console.print("Interrupted before: it goes on from its last checkpoint.")
            console.print(shlex.join(command), style="cyan", markup=False)
            if stage.name != "preview":
                say_loading(console)
            if stage.opens_a_page():
                console.print(PAGE.format("edit" if stage.name == "edit" else "refine"), style="dim", markup=False)
            self._execute(stage, command, stages, done)
            if stage.name == "preview" and not self._goes_on(stage, console):
                return
        self._summary(stages, done, console)

    def _complete_prompts(self) -> None:
        """Where no source prompt is given: that of an earlier call, or what is answered to a proposal.

        Raises:
            UserError: there is nobody to ask; with the proposal, where there is one.
        """
        if self.src_prompt.strip() or not self.tgt_prompt.strip():
            return
        if before := self._asked_before():
            self.src_prompt = before
            return
        from pds_nerfstudio.priors.caption import find_captioner, propose_caption
        from pds_nerfstudio.scenes.photographs import find_photographs

        require_run(self.run_folder, called="RUN")
        proposal, folder = "", find_captioner(self.caption)
        if folder is not None:
            photographs = find_photographs((self.run_folder,), None).paths
            proposal = propose_caption(folder, photographs[:: -(-len(photographs) // CAPTIONED)])
        if not _is_asked():
            proposed = f" ({folder} proposes {shlex.quote(proposal)})" if proposal else ""
            raise UserError(f'The source prompt is empty: say what is there, --from "a photo of …"{proposed}.')
        hint = f" [{proposal}]" if proposal else ""
        self.src_prompt = _answer(f"What does the scene show?{hint} ") or proposal

    def line(self) -> str:
        """This command as it can be typed again from the same folder, whatever `latest` leads to by then."""
        words = ["pds", "edit", str(behind_latest(self.run_folder))]
        for field in fields(self)[1:]:
            value, flag = getattr(self, field.name), f"--{SHORT.get(field.name, field.name.replace('_', '-'))}"
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-"))
            elif isinstance(value, tuple):
                words += [flag, *map(str, value)]
            else:
                words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
        return shlex.join(words)

    def _warn(self, console: Console) -> None:
        """Say what is likely to be a mistake, and go on."""
        if warning := unknown_words(self.prior, self.src_prompt, self.tgt_prompt, sought(self.region, "").words):
            console.print(warning, style="yellow", markup=False)
        source = require_run(self.run_folder, called="RUN")
        shown = source.prompts[1]
        if shown.strip() and shown.strip() != self.src_prompt.strip():
            said = f"{printable(source.folder)} was edited to show “{shown}”, and --from says “{self.src_prompt}”."
            console.print(said, style="yellow", markup=False)

    def _check_arguments(self, stages: Sequence[Stage]) -> None:
        """Raise UserError for a flag in one of the -args that its stage does not have."""
        given = {
            "dreambooth": ("--dreambooth-args", self.dreambooth_args),
            "edit": ("--edit-args", self.edit_args),
            "refinement": ("--refine-args", self.refine_args),
            "render": ("--render-args", self.render_args),
            "evaluate": ("--evaluate-args", self.evaluate_args),
        }
        for stage in stages:
            flag, text = given.get(stage.name, ("", ""))
            if text.strip():
                refuse_unknown(stage, flag, words_of(flag, text))

    def _asked_before(self) -> str | None:
        """The source prompt with which an earlier call began, if it was for the same target."""
        for command in self.record.commands():
            named = dict(itertools.pairwise(shlex.split(command)))
            if named.get("--pipeline.tgt-prompt") == self.tgt_prompt:
                return named.get("--pipeline.src-prompt")
        return None

    def _goes_on(self, preview: Stage, console: Console) -> bool:
        """Whether the scene is to be edited with these prompts, now that a photograph was."""
        console.print(f"Look at {printable(preview.result)}", markup=False)
        if _is_asked() and _answer("Edit the scene with these prompts? [y/N] ").lower() in ("y", "yes"):
            return True
        console.print("The same command again edits the scene; with other prompts, give a new --out.")
        return False

    def _say_cost(self, stages: Sequence[Stage], console: Console) -> None:
        """What the edit asks of a GPU, where that is counted; the edit itself counts anew for its prior and views."""
        method = next(stage.command[1] for stage in stages if stage.name == "edit")
        if self.prior not in PACKAGED and method in (counted := estimates()):
            said = f"Counted for Stable Diffusion 1.5 at 512x512, not measured: {counted[method]}."
            console.print(said, style="dim", markup=False)

    def stages(self) -> list[Stage]:
        """What will run, in order.

        Raises:
            UserError: prompts are missing or equal, or the run, the method or the prior is none.
        """
        check_prompts(self.src_prompt, self.tgt_prompt)
        from pds_nerfstudio.priors.check import check_prior, local_folder
        from pds_nerfstudio.priors.extras import check_extras_of
        from pds_nerfstudio.priors.recipe import read_wanted

        source = require_run(self.run_folder, called="RUN")  # before the hub is asked for a prior
        check_prior(self.prior)
        check_extras_of(local_folder(self.prior), self.lora, self.embedding, flags="--")
        read_wanted(self.recipe, "--recipe")
        require_known(self.prior, sought(self.region, "").words, "--region")
        if self.method.removesuffix("-splat") not in METHODS:
            raise UserError(f"There is no method {self.method!r}: {choices(self.method, METHODS)}")
        if (source.data is None or not source.data.exists()) and "--data" not in self.edit_args:
            raise data_gone(source.folder, source.data, '--edit-args="--data DATA"')
        return self._commands(source, source.family or family_that_only_nerfstudio_knows(source))

    def _commands(self, source: Run, family: str) -> list[Stage]:
        run, stages, prior = source.folder, [], self.prior
        suffix = "-splat" * (family == "splatfacto")
        if self.class_prompt:
            prior = str(self.out / "prior")
            command = ["pds", "dreambooth", "--load-config", str(source.config_path), "--prior", self.prior]
            command += ["--instance-prompt", self.src_prompt, "--class-prompt", self.class_prompt, "--out", prior]
            command += words_of("--dreambooth-args", self.dreambooth_args)
            stages.append(Stage("dreambooth", tuple(command), Path(prior) / CARD))
        prompts = ("--pipeline.src-prompt", self.src_prompt, "--pipeline.tgt-prompt", self.tgt_prompt)
        what = (*prompts, "--pipeline.prior", prior)
        lists = {"lora": self.lora, "embedding": self.embedding, "recipe": self.recipe}
        for flag, added in ((f"--pipeline.{name}", values) for name, values in lists.items()):
            what += (flag, *map(str, added)) if added else ()
        what += ("--pipeline.region", self.region) if self.region.strip() else ()
        method = self.method.removesuffix("-splat") + suffix
        if self.preview_first:
            stages.append(self._preview(source, prior))
        edit = self._training("edit", method, source.checkpoints[source.last].parent, what, self.edit_args)
        edited = edit.result
        stages.append(edit)
        if self.refine:
            scene = edited / "nerfstudio_models"
            stages.append(self._training("refinement", f"sdedit-refine{suffix}", scene, (), self.refine_args))
            edited = stages[-1].result
        between = (str(edited), "--source", str(run), "--out")
        films, report = self.out / "renders", self.out / "evaluation"
        command = ("pds", "render", *between, str(films), *words_of("--render-args", self.render_args))
        stages.append(Stage("render", command, films))
        command = ("pds", "evaluate", *between, str(report), *words_of("--evaluate-args", self.evaluate_args))
        stages.append(Stage("evaluate", command, report / "report.html"))
        return stages

    def _preview(self, source: Run, prior: str) -> Stage:
        kind = self.method.removesuffix("-splat").removesuffix("-edit")
        objective = "pnr" if kind == "idu" else kind
        out = self.out / "preview"
        command = ("pds", "preview", str(source.folder), "--src-prompt", self.src_prompt)
        command += ("--tgt-prompt", self.tgt_prompt, "--objective", objective, "--prior", prior, "--out", str(out))
        for flag, added in (("--lora", self.lora), ("--embedding", self.embedding)):
            command += (flag, *map(str, added)) if added else ()
        return Stage("preview", command, out / "sheet.png")

    def _training(self, name: str, method: str, scene: Path, what: Sequence[str], more: str) -> Stage:
        command = ("ns-train", method, "--load-dir", str(scene), *what, "--output-dir", str(self.out))
        command += ("--experiment-name", name, "--timestamp", "run")
        command += (
            "--viewer.quit-on-train-completion",
            "True",
            *words_of(f"--{'edit' if name == 'edit' else 'refine'}-args", more),
        )
        return Stage(name, command, self.out / name / method / "run", trains=True)

    def _execute(
        self, stage: Stage, command: Sequence[str], stages: Sequence[Stage] = (), done: dict[str, float] | None = None
    ) -> None:
        """Run a stage, its output on this terminal, and record it in `done` if it has finished.

        Raises:
            UserError: it failed.
            SystemExit: it was interrupted, or this command was; 130 or 143.
        """
        beside = Path(sys.executable).parent / command[0]
        program = str(beside) if beside.is_file() else shutil.which(command[0])
        if program is None:
            raise UserError(f"There is no command {command[0]}: install nerfstudio into this Python's environment.")
        start, done = time.perf_counter(), {} if done is None else done
        launched = [sys.executable, "-m", "pds_nerfstudio.launch", program, *command[1:]]
        ended = run_child(launched, self.record.held, {A_STAGE: stage.name})
        finished = ended.code == 0 and stage.has_result()
        if finished:
            done[stage.name] = round(time.perf_counter() - start, 1)
            self.record.keep(stages, done)
        if ended.signal is not None or ended.code in STOPPED:
            print(f"Interrupted {'after' if finished else 'in'} the stage {stage.name}. To go on:", file=sys.__stderr__)
            print(f"  {printable(self.line())}", file=sys.__stderr__)
            raise SystemExit(STOPPED.get(ended.code, 128 + (ended.signal or 0)))
        if not finished:
            raise UserError(
                f"The stage {stage.name} ended with {ended.code or _shortfall(stage)}, for the reason above: mend "
                "that and run the command again, which goes on with this stage as far as it was saved."
            )

    def _summary(self, stages: Sequence[Stage], done: dict[str, float], console: Console) -> None:
        title = f"“{in_rich(self.src_prompt)}” → “{in_rich(self.tgt_prompt)}”"
        table = Table("stage", "seconds", "result", title=title)
        for stage in stages:
            table.add_row(stage.name, f"{done[stage.name]:.0f}", in_rich(stage.result))
        console.print()
        console.print(table, soft_wrap=False)
        for name, shown in _measured(stages[-1].result.parent / "report.json"):
            console.print(f"  {in_rich(name)}: {in_rich(shown)}")
        *_, edited = (stage.result for stage in stages if stage.trains)
        look, *_, export = after_edit(edited, self.out)  # what lies between has been done
        say_next(console, [look, export])


def _is_asked() -> bool:
    """Whether somebody is there to answer; a shell's `<&-` leaves no standard input at all."""
    return sys.stdin is not None and sys.stdin.isatty()


def _answer(question: str) -> str:
    """What is typed at a question; nothing where the input ends (Ctrl-D)."""
    try:
        return input(question).strip()
    except EOFError:
        return ""


def family_that_only_nerfstudio_knows(source: Run) -> str:
    """The family of a run whose settings are of a class of their own.

    Raises:
        UserError: it is none that can be edited.
    """
    from pds_nerfstudio.scenes.source import find_run

    return find_run(source.config_path, called="RUN").family


def _shortfall(stage: Stage) -> str:
    """What a stage that ended without an error has left undone."""
    done = progress(stage.result) if stage.trains else None
    return "no result" if done is None else f"{done[0]} steps of {done[1]}"


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
        shown = {key: value if isinstance(value, str) else f"{value:.3f}" for key, value in known.items()}
        readings = {key: f" ({said})" if (said := metrics[key].get("reading")) else "" for key in shown}
        return [(metrics[key]["name"], f"{value}{readings[key]}") for key, value in shown.items()]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"The report {path} is damaged ({error!r}): {remedy}.") from error
