"""Steering an edit while it runs: changed settings, perturbations, snapshots, and the way back; logged for a replay.

    any thread ── request ──► queue ── between two steps ──► apply ──► session.jsonl ──► --replay

A change takes effect before the step it is logged with, and nothing else about the viewer reaches the edit. Replayed
with the same seed and device, a session therefore ends in the same scene, to the bit on a CPU.
"""

import copy
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.objectives.base import ScoreDistillation
from pds_nerfstudio.objectives.piva import Piva
from pds_nerfstudio.objectives.sds import SDS
from pds_nerfstudio.pipelines import ranks
from pds_nerfstudio.pipelines.edit import EditPipelineConfig
from pds_nerfstudio.pipelines.revise import REVISING, ReviseConfig, RevisePipeline
from pds_nerfstudio.scenes.region import Box
from pds_nerfstudio.scenes.run_config import load_config
from pds_nerfstudio.scenes.source import find_run, load_model_state, load_source_state
from pds_nerfstudio.scenes.splatfacto import SplatfactoScene
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.pipelines.trainer import EditTrainer

SESSION_FILE = "session.jsonl"
"""Where a run keeps its changes, one JSON object to a line."""
BEGIN = "begin"
"""The change that opens every session: all settings as the edit began."""
SETTINGS = ("prompts", "objective", "guidance_scale", "timesteps", "regularisation", "box")
"""What can change while an edit runs: `prompts` are source and target, `timesteps` the two ends of their range as
fractions, `regularisation` is Piva's λ, `box` six numbers or None."""
ACTIONS = ("perturb", "snapshot", "restore")
"""What can be asked for: `perturb` by an η, a `snapshot`, and to `restore` it or the "source"."""


@dataclass(frozen=True)
class Change:
    """One line of a session."""

    step: int
    """The edit step before which it took effect."""
    change: str
    """BEGIN, or one of SETTINGS or ACTIONS."""
    value: Any = None


def read_session(path: Path) -> list[Change]:
    """The changes that `path` holds.

    Raises:
        UserError: the file is missing, or a line of it is not a change.
    """
    try:
        lines = Path(path).read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--replay {path} cannot be read ({error}): give the {SESSION_FILE} of an edit's run."
        ) from error
    changes = []
    for number, line in enumerate(lines, 1):
        try:
            change = Change(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"Line {number} of {path} is no change of an edit ({error}): take it out.") from error
        if change.change not in (BEGIN, *SETTINGS, *ACTIONS):
            raise UserError(f"Line {number} of {path} names {change.change!r}, which no edit can change: take it out.")
        changes.append(change)
    if not changes or changes[0].change != BEGIN:
        raise UserError(f"{path} does not start with the settings the edit began with: give a whole {SESSION_FILE}.")
    return changes


def settings_of(config: EditPipelineConfig) -> dict[str, Any]:
    """The present value of everything in SETTINGS that this edit has."""
    objective = config.objective
    settings = {
        "prompts": [config.src_prompt, config.tgt_prompt],
        "objective": name_of(objective),
        "guidance_scale": objective.guidance_scale,
        "timesteps": [objective.min_step_percent, objective.max_step_percent],
        "box": None if config.box is None else list(config.box),
    }
    return settings | ({"regularisation": objective.regularisation} if isinstance(objective, Piva) else {})


def adopt_settings(config: EditPipelineConfig, settings: dict[str, Any]) -> None:
    """Begin with these settings (see `settings_of`), before anything is built."""
    config.src_prompt, config.tgt_prompt = settings["prompts"]
    kind = REVISING[settings["objective"]]
    low, high = settings["timesteps"]
    changes = {"guidance_scale": settings["guidance_scale"], "min_step_percent": low, "max_step_percent": high}
    if kind is Piva:
        changes["regularisation"] = settings["regularisation"]
    own = config.objective if type(config.objective) is kind else kind()
    config.objective = replace(own, **changes)
    config.box = None if settings["box"] is None else tuple(settings["box"])
    if isinstance(config, ReviseConfig):
        config.by = settings["objective"]


def name_of(objective: ScoreDistillation) -> str:
    """How the command line calls it."""
    return next(name for name, kind in REVISING.items() if type(objective) is kind)


def change_setting(config: EditPipelineConfig, name: str, value: Any) -> None:
    """Set one of SETTINGS; the next step goes by it.

    Raises:
        ValueError: with that value the edit could not go on.
    """
    objective = config.objective
    if name == "prompts":
        source, target = (str(prompt).strip() for prompt in value)
        if source == target or not target or not (source or isinstance(objective, SDS)):
            raise ValueError("the two prompts must differ, and neither may be empty.")
        config.src_prompt, config.tgt_prompt = source, target
    elif name == "objective":
        kind = REVISING.get(value)
        if kind is None or set(kind().adapters) - set(objective.adapters):
            raise ValueError(f"this edit cannot change to {value!r}: start another with it.")
        steps = {"min_step_percent": objective.min_step_percent, "max_step_percent": objective.max_step_percent}
        config.objective = kind(guidance_scale=objective.guidance_scale, **steps)
        if isinstance(config, ReviseConfig):
            config.by = value
    elif name == "timesteps":
        low, high = value
        config.objective = replace(objective, min_step_percent=float(low), max_step_percent=float(high))
    elif name == "box":
        config.box = None if value is None else Box(tuple(map(float, value))).corners  # pyright: ignore[reportArgumentType]
    elif name == "guidance_scale" or isinstance(objective, Piva):
        config.objective = replace(objective, **{name: float(value)})
    else:
        raise ValueError(f"{name_of(objective)} has no {name}.")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A scene with everything that trains it, at one step; densification may have changed its size since."""

    scene: dict[str, Tensor]
    """The scene's part of a pipeline state dict; empty for the source, which is read from its run."""
    adapters: dict[str, Tensor] | None
    optimizers: dict[str, Any]
    schedulers: dict[str, Any]
    grad_scaler: dict[str, Any]
    densification: dict[str, Any]
    """State of the strategy that densifies splats."""

    @classmethod
    def of(cls, trainer: "EditTrainer", scene: bool = True) -> "Snapshot":
        """What `trainer` holds now, copied."""
        model, adapters = trainer.pipeline.model, trainer.pipeline.adapters
        copied = copy.deepcopy(
            (
                {name: optimizer.state_dict() for name, optimizer in trainer.optimizers.optimizers.items()},
                {name: scheduler.state_dict() for name, scheduler in trainer.optimizers.schedulers.items()},
                trainer.grad_scaler.state_dict(),
                model.strategy_state if isinstance(model, SplatfactoScene) else {},
            )
        )
        values = {f"_model.{name}": value.clone() for name, value in model.state_dict().items()} if scene else {}
        return cls(values, None if adapters is None else adapters.state_dict(), *copied)

    def put_back(self, trainer: "EditTrainer", scene: dict[str, Tensor] | None = None) -> None:
        """Make `trainer` what it was; with `scene`, on that scene."""
        model, adapters = trainer.pipeline.model, trainer.pipeline.adapters
        load_model_state(model, self.scene if scene is None else scene)
        if adapters is not None and self.adapters is not None:
            adapters.load_state_dict(self.adapters)
        # Optimisers step in place what they are given.
        optimizers, densification = copy.deepcopy((self.optimizers, self.densification))
        trainer.optimizers.zero_grad_all()
        trainer.optimizers.load_optimizers(optimizers)
        trainer.optimizers.load_schedulers(self.schedulers)
        trainer.grad_scaler.load_state_dict(self.grad_scaler)
        if scene is not None:
            trainer.pipeline.confine()
        elif isinstance(model, SplatfactoScene):
            model.strategy_state = densification


class Session:
    """The changes of one run: those asked for, those made, and those still to be replayed."""

    def __init__(self, trainer: "EditTrainer", replayed: Iterable[Change] = ()):
        """To be built where the optimisers are as at an edit's begin."""
        self.note = ""
        """What became of the last request, for the user."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called after something was replayed or refused: what a panel shows may then be out of date."""
        self._trainer = trainer
        self._queue: list[tuple[str, Any]] = []
        self._queue_lock = threading.Lock()
        self._replayed = [change for change in replayed if change.change != BEGIN]
        self._begin = Snapshot.of(trainer, scene=False)
        self._snapshot: Snapshot | None = None
        self._done: list[Change] = []

    def request(self, change: str, value: Any = None) -> None:
        """Ask for a change before the next step, from any thread. Of one setting, the last request counts."""
        with self._queue_lock:
            if change in SETTINGS:
                self._queue = [asked for asked in self._queue if asked[0] != change]
            self._queue.append((change, value))

    def begin(self, step: int) -> None:
        """Open the log of an edit that begins at `step`; one that goes on continues its run's."""
        if not self._trainer.plan.resumes:
            self._begin = Snapshot.of(self._trainer, scene=False)  # adapters may have learned the source by now
        previous = self._trainer.plan.run.config_path.parent / SESSION_FILE
        self._replayed = [change for change in self._replayed if change.step >= step]
        if self._trainer.plan.resumes and previous.is_file():
            self._done = [change for change in read_session(previous) if change.step < step]
        now = settings_of(self._trainer.pipeline.config)
        if not self._done:
            self._done = [Change(step, BEGIN, now)]
        known = dict(self._done[0].value) | {c.change: c.value for c in self._done if c.change in SETTINGS}
        self._done += [Change(step, name, value) for name, value in now.items() if known.get(name) != value]
        self._write()

    def apply(self, step: int) -> None:
        """Make the changes that are due before `step`; the caller holds the trainer's lock."""
        due = [change for change in self._replayed if change.step <= step]
        self._replayed = [change for change in self._replayed if change.step > step]
        with self._queue_lock:
            asked, self._queue = self._queue, []
        if not due and not asked:
            return
        refused, settings = False, settings_of(self._trainer.pipeline.config)
        for name, value in [(change.change, change.value) for change in due] + asked:
            if name in SETTINGS and settings_of(self._trainer.pipeline.config).get(name) == value:
                continue
            try:
                self._make(name, value)
            except (ValueError, UserError) as error:
                refused, self.note = True, f"Refused: {error}"
                refusal = f"Before step {step}, {name} {value!r} was refused: {error}"
                CONSOLE.log(f"[yellow]{in_rich(refusal)}")
                continue
            self._done.append(Change(step, name, value))
            self.note = f"Before step {step}: {_said(name, value)}."
            CONSOLE.log(in_rich(self.note))
        self._write()
        if settings_of(self._trainer.pipeline.config) != settings:
            self._keep_settings()
        if due or refused:
            self.on_answer()

    def _make(self, name: str, value: Any) -> None:
        trainer, pipeline = self._trainer, self._trainer.pipeline
        if name in SETTINGS:
            before = settings_of(pipeline.config).get(name)
            change_setting(pipeline.config, name, value)
            if name in pipeline.confining:
                try:
                    pipeline.confine()
                except UserError:
                    change_setting(pipeline.config, name, before)
                    pipeline.confine()
                    raise
        elif name == "snapshot":
            self._snapshot = Snapshot.of(trainer)
        elif name == "perturb":
            if not isinstance(pipeline, RevisePipeline):
                raise ValueError("only pnr-edit perturbs.")
            with torch.no_grad():
                pipeline.perturb_scene(float(value))
            for optimizer in trainer.optimizers.optimizers.values():
                optimizer.state.clear()  # its moments belong to the scene before
        elif value not in ("source", "snapshot"):
            raise ValueError('it is the "source" or the "snapshot" that can be restored.')
        elif value == "source":
            base = pipeline.config.base
            assert base is not None
            self._begin.put_back(trainer, load_source_state(find_run(base, pipeline.config.base_step)))
        elif self._snapshot is None:
            raise ValueError("there is no snapshot: take one first.")
        else:
            self._snapshot.put_back(trainer)

    def _write(self) -> None:
        if ranks.rank() > 0:
            return
        lines = (json.dumps(vars(change), ensure_ascii=False) + "\n" for change in self._done)
        write_whole(self._trainer.base_dir / SESSION_FILE, "".join(lines))

    def _keep_settings(self) -> None:
        """Let the run's `config.yml` say what the edit now goes by: who resumes or judges it reads that."""
        path = self._trainer.base_dir / "config.yml"
        if path.is_file() and ranks.rank() == 0:
            saved, now = load_config(path), self._trainer.pipeline.config
            for name in (
                "src_prompt",
                "tgt_prompt",
                "objective",
                "box",
                *(("by",) if isinstance(now, ReviseConfig) else ()),
            ):
                setattr(saved.pipeline, name, getattr(now, name))
            write_whole(path, yaml.dump(saved))


def _said(name: str, value: Any) -> str:
    if name == "restore":
        return f"back to the {value}"
    return "snapshot taken" if name == "snapshot" else f"{name.replace('_', ' ')} {value}"
