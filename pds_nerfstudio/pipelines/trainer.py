"""nerfstudio's trainer, with what long runs need (atomic checkpoints, an honest progress bar, errors in one sentence),
and the edit's trainer on top: new or resumed, its own step count, and two checks that the edit does something.
"""

import copy
import datetime
import functools
import inspect
import itertools
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer import Viewer
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

from pds_nerfstudio.errors import UserError, one_sentence
from pds_nerfstudio.pipelines import ranks
from pds_nerfstudio.pipelines.edit import ADAPTERS, EditPipeline
from pds_nerfstudio.pipelines.panel import Panel
from pds_nerfstudio.pipelines.prepare import Plan, prepare
from pds_nerfstudio.pipelines.ranks import NonFiniteElsewhere, NonFiniteGradient, SharedOptimizers
from pds_nerfstudio.pipelines.session import Session, read_session
from pds_nerfstudio.pipelines.shown import Shown
from pds_nerfstudio.scenes.source import find_run, load_model_state, load_source_state
from pds_nerfstudio.text import in_rich

MOVED_AFTER = 20
"""Steps after which the scene must have moved."""
LOGGED_VIEWS = 3
"""Training views that are logged as pictures, with each checkpoint."""
MOST_SKIPPED = 5
"""Steps in a row without a finite gradient that end a run."""

progress_console: Console = CONSOLE
"""Where progress bars are drawn; `pds demo` keeps nerfstudio's own output in a log file and draws elsewhere."""


@dataclass
class SceneTrainerConfig(TrainerConfig):
    """nerfstudio's trainer settings, for a `SceneTrainer`."""

    _target: type = field(default_factory=lambda: SceneTrainer)


class SceneTrainer(Trainer):
    """A trainer whose checkpoints are complete or absent, whatever interrupts it."""

    _bar: Progress | None = None
    _task = TaskID(0)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything; a dataset that cannot be read ends in one sentence."""
        with one_sentence():
            try:
                super().setup(test_mode)
            except OSError as error:
                raise UserError(_unreadable(self.config, error)) from error

    def train(self) -> None:
        """Train under a progress bar whose remaining time comes from the last hundred steps."""
        total = self._start_step + self._steps_to_run()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with one_sentence():
            self._before_training()
        bar = Progress(*columns, console=progress_console, refresh_per_second=2, disable=ranks.rank() > 0)
        with one_sentence(), bar as self._bar:
            try:
                self._task = self._bar.add_task(self._title(0), total=total, completed=self._start_step, note="")
                super().train()
            finally:
                _close_event_writers()

    def train_iteration(self, step: int):
        """One step of nerfstudio's, shown in the bar.

        What it returns has no graph: nerfstudio keeps it, and a graph remembers the sizes of parameters that a restored
        snapshot changes.
        """
        loss, losses, metrics = super().train_iteration(step)
        if self._bar is not None:
            note = f"loss {float(loss.detach()):.4g}"
            self._bar.update(self._task, completed=step + 1, note=note, description=self._title(step))
        return loss.detach(), *(
            {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
            for values in (losses, metrics)
        )

    def _before_training(self) -> None:
        """What happens once, before the first step."""

    def _title(self, step: int) -> str:
        """What the bar says on its left."""
        return str(self.config.method_name)

    def save_checkpoint(self, step: int) -> None:
        """Write beside the checkpoint folder, then move into it: a file there is always whole."""
        if ranks.rank() > 0:
            return
        folder, partial = self.checkpoint_dir, self.base_dir / "checkpoint.partial"
        partial.mkdir(parents=True, exist_ok=True)
        self.checkpoint_dir = partial
        try:
            super().save_checkpoint(step)
            folder.mkdir(parents=True, exist_ok=True)
            for path in partial.glob("*.ckpt"):
                os.replace(path, folder / path.name)
                written = folder / path.name
                if self.config.save_only_latest_checkpoint:
                    for old in folder.glob("*.ckpt"):
                        if old != written:
                            old.unlink()
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"The checkpoint of step {step} could not be written ({str(error).splitlines()[0]}): make room on the "
                f"disk; the last whole one is kept in {folder}."
            ) from error
        finally:
            self.checkpoint_dir = folder
            shutil.rmtree(partial, ignore_errors=True)

    def _steps_to_run(self) -> int:
        return self.config.max_num_iterations


@dataclass
class EditTrainerConfig(SceneTrainerConfig):
    """An edit of a finished run."""

    _target: type = field(default_factory=lambda: EditTrainer)
    max_num_iterations: int = 30_000
    """Edit steps in all, counted from 0 by the edit itself; a resumed edit runs what is left of them."""
    replay: Path | None = None
    """The session.jsonl of an edit that was steered in the viewer: begin with its prompts and settings, and make its
    changes again at the same steps. With the same other flags it ends in the same scene."""

    def set_timestamp(self) -> None:
        """The first thing nerfstudio calls once it has read the command line: complete the configuration here, so
        that what is printed and saved is what will run."""
        super().set_timestamp()
        with one_sentence():
            CONSOLE.log(in_rich(self.plan.summary))

    @functools.cached_property
    def plan(self) -> Plan:
        """What this configuration means; asking completes it from the run it names."""
        return prepare(self, default_of(self))

    def __getstate__(self) -> dict[str, Any]:
        """What `config.yml` holds: the fields alone."""
        return {name: value for name, value in vars(self).items() if name != "plan"}


def default_of(config: TrainerConfig) -> TrainerConfig:
    """The registered configuration of the same method."""
    from nerfstudio.configs.method_configs import all_methods

    return all_methods[str(config.method_name)]  # pyright: ignore[reportReturnType]


class EditTrainer(SceneTrainer):
    """Trains an `EditPipeline`: loads the scene before the optimisers are built, counts edit steps from 0."""

    pipeline: EditPipeline  # pyright: ignore[reportIncompatibleVariableOverride]
    session: Session
    shown: Shown | None = None
    """What open pages render; None without a viewer."""
    skipped = 0
    """Steps without a finite gradient so far."""
    panel: Panel | None = None
    _next_step = 0
    _total_steps = 0
    _last_loss = math.nan
    _skipped_in_a_row = 0
    _before: dict[str, torch.Tensor] | None = None

    @property
    def plan(self) -> Plan:
        """What the command line turned out to mean."""
        assert isinstance(self.config, EditTrainerConfig)
        return self.config.plan

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything; pages render a copy of the scene."""
        super().setup(test_mode)
        self._next_step = self._start_step
        if isinstance(self.viewer_state, Viewer):
            base = self.pipeline.config.base
            assert base is not None
            source = self.pipeline.build_model()
            load_model_state(source, load_source_state(find_run(base, self.pipeline.config.base_step)))
            self.shown = Shown(self.viewer_state, self.pipeline.model, self.pipeline.build_model(), source)

    def setup_optimizers(self):
        """Load the scene first: optimisers built earlier would hold the parameters of an empty one."""
        state = load_source_state(self.plan.run)
        load_model_state(self.pipeline.model, state)
        with one_sentence():
            self.pipeline.confine(state if self.plan.resumes else None)
        self.optimizers = self._build_optimizers()
        for optimizer in self.optimizers.optimizers.values():
            optimizer.register_step_pre_hook(lambda optimizer, *_: self.pipeline.held.still(optimizer))
        assert isinstance(self.config, EditTrainerConfig)
        self.session = Session(self, read_session(self.config.replay) if self.config.replay else ())
        if self.plan.resumes:
            self.pipeline.load_beside(state)
        self.pipeline.decisions["run"] = self.plan.summary.replace("/", " / ")  # a page breaks lines at spaces alone
        # The viewer looks for its elements before the checkpoint is loaded.
        if self.config.is_viewer_enabled() and self.pipeline.steerable:
            self.panel = self.pipeline.panel = Panel(self.pipeline.config, self._ask, self._show_source)
            self.session.on_answer = self.panel.follow
        return self.optimizers

    def _build_optimizers(self) -> SharedOptimizers:
        return SharedOptimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())

    def _load_checkpoint(self) -> None:
        """Optimisers and step of an edit that goes on; a new edit has neither."""
        self._start_step, self._total_steps = self.plan.first_step, self.config.max_num_iterations
        if not self.plan.resumes:
            return
        saved = torch.load(self.plan.run.checkpoint_path, map_location="cpu", weights_only=True)
        self.optimizers.load_optimizers(saved["optimizers"])
        if self.config.load_scheduler:
            self.optimizers.load_schedulers(saved["schedulers"])
        self.grad_scaler.load_state_dict(saved["scalers"])

    def _steps_to_run(self) -> int:
        return self._total_steps - self._start_step

    def train(self) -> None:
        """Run what is left of the edit. nerfstudio's releases disagree about what `max_num_iterations` counts."""
        with _additional_steps(self.config, self._start_step):
            super().train()

    def train_iteration(self, step: int):
        """One edit step; one whose gradient is not finite changes nothing."""
        self.session.apply(step)
        self._next_step = step + 1
        if self._before is None:
            self._before = self._checksums()
        try:
            result = super().train_iteration(step)
        except NonFiniteGradient as error:
            if not isinstance(error, NonFiniteElsewhere):
                ranks.any_of(True, self.pipeline.device)  # the others wait for this process's gradients
            return self._skip(step, str(error))
        self._skipped_in_a_row, self._last_loss = 0, float(result[0])
        done = step - self._start_step + 1
        if done == 1:
            self._require_gradient()
        if done == MOVED_AFTER:
            self._require_movement()
        return result

    def _title(self, step: int) -> str:
        first = step <= self._start_step and self.pipeline.config.compile_prior
        return f"{self.config.method_name}: {'compiling the prior' if first else self.pipeline.stage_at(step)}"

    def _before_training(self) -> None:
        """A new edit may measure and change the scene before its first step."""
        with self.train_lock:
            if not self.plan.resumes:
                self.pipeline.begin(self.probe)
                ranks.share(itertools.chain(*self.optimizers.parameters.values()))
            self.session.begin(self._start_step)
        self._log_images(self._start_step)
        self._show(now=True)

    def save_checkpoint(self, step: int) -> None:
        """As ever, while nobody changes the scene; a log of pictures gets some of it."""
        with self.train_lock:
            super().save_checkpoint(step)
            self._log_images(step)

    def _log_images(self, step: int) -> None:
        """Source and edit side by side for tensorboard, wandb or comet, where one of them is on."""
        if self.config.vis not in ("viewer", "viewer_legacy"):
            for name, pair in self.pipeline.before_and_after(LOGGED_VIEWS).items():
                writer.put_image(f"Edit: source, edited/{name}", pair, step)

    def _ask(self, change: str, value: Any = None) -> None:
        """From the panel, on one of the viewer's threads. A paused edit makes the change at once."""
        if self.training_state == "completed":
            self.session.note = "The edit has ended and is saved: start another from it."
        else:
            self.session.request(change, value)
        if self.training_state == "paused":
            with self.train_lock:
                self.session.apply(self._next_step)
        if self.training_state != "training":
            self._show(now=True)

    def _show_source(self, share: float) -> None:
        if self.shown is not None:
            self.shown.source_share = share

    def _update_viewer_state(self, step: int) -> None:
        """The viewer asks its pages to render again, where it is time; a page may come or go while it does."""
        if self.shown is None:
            super()._update_viewer_state(step)
            return
        self.shown.after_step()
        with suppress(KeyError):
            super()._update_viewer_state(step)
        if self.shown.watched:
            self._show()

    def _show(self, now: bool = False) -> None:
        """Bring the panel, and with `now` the scene that pages render, up to date."""
        if self.shown is not None and now:
            self.shown.refresh()
        if self.panel is None:
            return
        left = None if self._bar is None else self._bar.tasks[0].time_remaining
        status = f"**Step {self._next_step} of {self._total_steps}** · {self.pipeline.stage_at(self._next_step)}"
        status += "" if left is None else f" · {datetime.timedelta(seconds=round(left))} left"
        status += "" if math.isnan(self._last_loss) else f" · loss {self._last_loss:.4g}"
        self.panel.update(status, self.session.note, self.pipeline.decisions, self.pipeline.last_view, now)

    def probe(self, steps: int, still: bool = False) -> list[float]:
        """Run edit steps −steps … −1 on optimisers of their own, and put scene and adapters back bit for bit.

        Args:
            still: take no optimiser step, so that every loss is that of the scene as it is.

        Returns:
            the value of `edit_loss` at each step, the mean over all processes.

        Raises:
            UserError: a step has no finite gradient.
        """
        # A prior's adapters are no part of the pipeline, but train with it.
        trained = itertools.chain(self.pipeline.parameters(), self.optimizers.parameters.get(ADAPTERS, ()))
        kept = [(parameter, parameter.detach().clone()) for parameter in trained]
        optimizers, scaler = self.optimizers, self.grad_scaler
        self.optimizers, self.grad_scaler = self._build_optimizers(), copy.deepcopy(scaler)
        losses = []
        try:
            for step in track(range(-steps, 0), "probe", console=progress_console, transient=True):
                if still:
                    with torch.no_grad():
                        terms = self.pipeline.get_train_loss_dict(step)[1]
                else:
                    terms = Trainer.train_iteration(self, step)[1]
                losses.append(float(terms["edit_loss"].detach()))
        except NonFiniteGradient as error:
            raise UserError(
                f"The probe met no finite gradient ({error}): give eta a number, or use --pipeline.precision fp32."
            ) from error
        finally:
            self.optimizers.zero_grad_all()
            self.optimizers, self.grad_scaler = optimizers, scaler
            with torch.no_grad():
                for parameter, value in kept:
                    parameter.copy_(value)
        return ranks.mean(losses, self.pipeline.device)

    def _skip(self, step: int, reason: str):
        self.skipped += 1
        self._skipped_in_a_row += 1
        CONSOLE.log(f"[yellow]Step {step} skipped ({self.skipped} so far): {in_rich(reason)}.")
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"{self._skipped_in_a_row} steps in a row had no finite gradient ({reason}): lower the learning rate "
                "or the guidance scale, or use --pipeline.precision fp32; the last checkpoint is in "
                f"{self.checkpoint_dir}."
            )
        self.optimizers.zero_grad_all()
        return torch.zeros(()), {}, {}

    def _scene_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        for group, parameters in self.optimizers.parameters.items():
            if group == ADAPTERS:
                continue
            for i, parameter in enumerate(parameters):
                yield f"{group}.{i}", parameter

    def _checksums(self) -> dict[str, torch.Tensor]:
        """Of every parameter: sum, sum of squares, and how many entries are not finite."""
        sums = {}
        for name, parameter in self._scene_parameters():
            broken = ~parameter.detach().isfinite()
            finite = parameter.detach().double().masked_fill(broken, 0)
            sums[name] = torch.stack([finite.sum(), finite.square().sum(), broken.sum()])
        return sums

    def _require_gradient(self) -> None:
        """After the first step: does the objective's gradient reach the scene at all?"""
        if not any(p.grad is not None and bool(p.grad.any()) for _, p in self._scene_parameters()):
            raise UserError(
                "No gradient reached the scene in the first step, so this edit would do nothing: check that the "
                "prompts differ and that --pipeline.loss-weight is not 0."
            )

    def _require_movement(self) -> None:
        """After twenty: has it moved, and is it still finite?"""
        now, before = self._checksums(), self._before or {}
        broken = [name for name, value in now.items() if name in before and value[2] > before[name][2]]
        if broken:
            raise UserError(f"The scene is no longer finite ({', '.join(broken)}): lower the learning rate.")
        if all(name in before and torch.equal(value, before[name]) for name, value in now.items()):
            raise UserError(
                f"The scene has not moved in {MOVED_AFTER} steps: raise the learning rates (--optimizers…) or "
                "--pipeline.loss-weight."
            )


@contextmanager
def _additional_steps(config: TrainerConfig, start: int) -> Iterator[None]:
    """PyPI's 1.1.5 runs `max_num_iterations` more steps, its main branch so many in all: say what each needs."""
    total = config.max_num_iterations
    if "self._start_step + num_iterations" in inspect.getsource(Trainer.train):
        config.max_num_iterations = total - start
    try:
        yield
    finally:
        config.max_num_iterations = total


def _close_event_writers() -> None:
    """nerfstudio keeps its event writers: a second training in this process would log into the first one's files."""
    for event_writer in writer.EVENT_WRITERS:
        if isinstance(event_writer, writer.TensorboardWriter):
            event_writer.tb_writer.close()
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()


def _unreadable(config: TrainerConfig, error: OSError) -> str:
    """A sentence that names the image that cannot be read, or repeats what the system said."""
    if isinstance(error, Image.UnidentifiedImageError) or error.errno is None:
        data = config.pipeline.datamanager.data
        paths = sorted(p for p in Path(data or ".").rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
        for path in paths:
            try:
                with Image.open(path) as image:
                    image.load()
            except OSError as reason:
                return f"The image {path} cannot be read ({reason}): replace it, or take it out of the dataset."
    return f"The dataset cannot be read ({error}): check --data."
