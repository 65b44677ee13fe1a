"""The edit's trainer: new or resumed, its own step count, what a viewer shows and asks for, and the end of an edit."""

import copy
import functools
import itertools
import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer import Viewer
from rich.progress import track

from pds_nerfstudio.draws import generator_at
from pds_nerfstudio.errors import UserError, first_line, one_sentence
from pds_nerfstudio.pipelines import distributed, scene_trainer
from pds_nerfstudio.pipelines.base import EditPipeline
from pds_nerfstudio.pipelines.carried import carry
from pds_nerfstudio.pipelines.checks import MovementCheck, require_visible
from pds_nerfstudio.pipelines.conclusion import conclude
from pds_nerfstudio.pipelines.display import Display, begin_at
from pds_nerfstudio.pipelines.distillation import ADAPTERS
from pds_nerfstudio.pipelines.distributed import NonFiniteElsewhere, NonFiniteGradient, SharedOptimizers
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.half_precision import CountingScaler
from pds_nerfstudio.pipelines.history import History, between
from pds_nerfstudio.pipelines.memory_plan import work_of
from pds_nerfstudio.pipelines.pace import at_least, in_words, is_counted
from pds_nerfstudio.pipelines.panel import Panel
from pds_nerfstudio.pipelines.plan import Plan, prepare
from pds_nerfstudio.pipelines.scene_trainer import SceneTrainer, SceneTrainerConfig, additional_steps
from pds_nerfstudio.pipelines.session import Session
from pds_nerfstudio.pipelines.skips import Skips
from pds_nerfstudio.pipelines.source_views import photographs_singly
from pds_nerfstudio.pipelines.steering import is_way_back
from pds_nerfstudio.priors.families import PACKAGED
from pds_nerfstudio.prompts import folder_words
from pds_nerfstudio.ranges import check_range
from pds_nerfstudio.scenes.source import load_source_state
from pds_nerfstudio.text import in_rich

LOGGED_VIEWS = 3
"""Training views that are logged as pictures, with each checkpoint."""
OF_STEPS = 1 << 40
"""Added to the seeds of torch's own generator, which no other draw of an edit shares."""


@dataclass
class EditTrainerConfig(SceneTrainerConfig):
    """An edit of a finished run."""

    _target: type = field(default_factory=lambda: EditTrainer)
    max_num_iterations: int = 30_000
    """Total number of edit steps. A resumed edit runs those that are left."""
    replay: Path | None = None
    """Repeat an edit that was steered in the viewer: the path of its session.jsonl. The edit starts with the same
    prompts and settings and makes the same changes at the same steps. If all other flags are the same, it ends in the
    same scene."""
    history: Literal["auto", "scenes", "pictures", "nothing"] = "auto"
    """What to save at intervals and before every change: scenes that you can go back to, only pictures (`pds history
    RUN` shows them), or nothing. auto saves scenes if a viewer is on, else pictures."""
    steps_per_moment: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    """Edit steps between two saved moments of the history; by default a twentieth of the edit."""
    history_gb: Annotated[float, Gt(0), Le(1e6)] = 4.0
    """Most disk space that the saved scenes may take, in GB (10⁹ bytes). Beyond it, scenes between changes are deleted
    first. Moments with a name are kept."""
    given = None
    """The settings that were named (a `Given`), where no command line says which."""

    def set_timestamp(self) -> None:
        """The first thing nerfstudio calls once it has read the command line: complete the configuration here, so
        that what is printed and saved is what will run."""
        with one_sentence():
            for name in ("steps_per_moment", "history_gb"):
                check_range(self, name)
            plan = self.plan  # names the experiment, and so the folder
        super().set_timestamp()
        CONSOLE.log(in_rich(plan.summary))
        for line in filter(None, (plan.restored, plan.recipe)):
            CONSOLE.log(in_rich(line))
        if plan.warning:
            CONSOLE.log(f"[yellow]{in_rich(plan.warning)}")

    def words(self) -> str:
        """What the edit adds to its scene."""
        pipeline = self.pipeline
        return folder_words(pipeline.src_prompt, pipeline.tgt_prompt) if isinstance(pipeline, EditConfig) else ""

    @functools.cached_property
    def plan(self) -> Plan:
        """What this configuration means; asking completes it from the run it names."""
        return prepare(self, default_of(self))

    def __getstate__(self) -> dict[str, Any]:
        """What `config.yml` holds: the fields alone."""
        return {name: value for name, value in vars(self).items() if name not in ("plan", "given")}


def default_of(config: TrainerConfig) -> TrainerConfig:
    """The registered configuration of the same method."""
    from nerfstudio.configs.method_configs import all_methods

    return all_methods[str(config.method_name)]  # pyright: ignore[reportReturnType]


class EditTrainer(SceneTrainer):
    """Trains an `EditPipeline`: loads the scene before the optimisers are built, counts edit steps from 0."""

    pipeline: EditPipeline  # pyright: ignore[reportIncompatibleVariableOverride]
    grad_scaler: CountingScaler  # pyright: ignore[reportIncompatibleVariableOverride]
    session: Session
    is_edit = True
    display: Display | None = None
    """What open pages render; None without a viewer."""
    skips: Skips
    """Steps that changed nothing."""
    panel: Panel | None = None
    _next_step = 0
    _total_steps = 0
    _check: MovementCheck | None = None

    @property
    def plan(self) -> Plan:
        """What the command line turned out to mean."""
        assert isinstance(self.config, EditTrainerConfig)
        return self.config.plan

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything; pages render a copy of the scene."""
        assert isinstance(self.config.pipeline, EditConfig)
        scale, enabled = self.config.pipeline.first_scale, self.grad_scaler.is_enabled()
        self.grad_scaler = CountingScaler(init_scale=scale, enabled=enabled)
        self.skips = Skips(self.checkpoint_dir)
        with photographs_singly(self.config):
            super().setup(test_mode)
        self._next_step = self._start_step
        if isinstance(self.viewer_state, Viewer):
            pipeline = self.pipeline
            scenes = pipeline.model, pipeline.build_model(), pipeline.build_source()
            self.display = Display(self.viewer_state, *scenes)
            begin_at(self.viewer_state, pipeline.views.camera(0, *pipeline.views.size(0)))
            self._add_panel(self.viewer_state, self.display)

    def _load_images(self) -> None:
        """Photographs are decoded when they are looked at, which few edits do."""

    def _add_panel(self, viewer: Viewer, display: Display) -> None:
        """Let pages steer the edit; of several processes, the others would not hear of a change."""
        if distributed.count() > 1:
            CONSOLE.log("Pages show this edit and cannot steer it: that takes an edit on one GPU.")
            return
        session = self.session
        self.panel = Panel(viewer, display, self.pipeline.config, self._ask, session.value_of, session.history)
        session.on_answer = self.panel.follow
        viewer.pause_train.on_click(lambda _: self._make_while_paused())  # behind nerfstudio's own

    def setup_optimizers(self):
        """Open the scene first: optimisers built earlier would hold the parameters of an empty one."""
        plan = self.plan
        with one_sentence():
            self.pipeline.steps = self.config.max_num_iterations
            self.pipeline.open(load_source_state(plan.run), plan.resumes, plan.refreeze)
            if distributed.rank() == 0:
                carry(self.pipeline.config.run, self.base_dir)
        self.optimizers = self._build_optimizers()
        for optimizer in self.optimizers.optimizers.values():
            optimizer.register_step_pre_hook(lambda optimizer, *_: self.pipeline.scene.mask_gradients(optimizer))
        self.session = Session(self, self._history(), plan.due)
        self.pipeline.decisions["run"] = self.plan.summary.replace("/", " / ")  # a page breaks lines at spaces alone
        return self.optimizers

    def _history(self) -> History:
        config = self.config
        assert isinstance(config, EditTrainerConfig)
        kept = config.history
        if kept == "auto":
            kept = "scenes" if config.is_viewer_enabled() else "pictures"
        every = config.steps_per_moment or between(config.max_num_iterations)
        back_to = [c.value["to"] for c in self.plan.due if c.change == "restore" and is_way_back(c.value)]
        return History(self, kept, every, 1e9 * config.history_gb, back_to)

    def _build_optimizers(self) -> SharedOptimizers:
        groups, finite = self.pipeline.get_param_groups(), self.pipeline.finite
        return SharedOptimizers(self.config.optimizers.copy(), groups, finite.require)

    def _load_checkpoint(self) -> None:
        """Optimisers and step of an edit that goes on; a new edit has neither."""
        self._start_step, self._total_steps = self.plan.first_step, self.config.max_num_iterations
        if not self.plan.resumes:
            return
        saved = self.plan.run.checkpoint
        self.optimizers.load_optimizers(saved["optimizers"])
        if self.config.load_scheduler:
            self.optimizers.load_schedulers(saved["schedulers"])
        self.grad_scaler.load_state_dict(saved["scalers"])

    def _steps_to_run(self) -> int:
        return self._total_steps - self._start_step

    def train(self) -> None:
        """Run what is left of the edit. nerfstudio's releases disagree about what `max_num_iterations` counts."""
        with additional_steps(self.config, self._start_step):
            super().train()

    def _conclude(self, step: int) -> None:
        self.session.end()
        self._show(now=True)
        self.session.history.end(step + 1)
        conclude(self.pipeline, self.base_dir)

    def train_iteration(self, step: int):
        """One edit step; one whose gradient is not finite changes nothing."""
        self.session.apply(step)
        self._next_step = step + 1
        if self._check is None:
            groups = self.optimizers.parameters.items()
            self._check = MovementCheck({name: group for name, group in groups if name != ADAPTERS})
        self._seed(step)
        overflown = self.grad_scaler.overflown
        try:
            result = self._within_memory(step)
        except NonFiniteGradient as error:
            if not isinstance(error, NonFiniteElsewhere):
                distributed.any_of(True, self.pipeline.device)  # the others wait for this process's gradients
            self._last_step = step
            self.skips.not_finite(step, str(error))
            self.optimizers.zero_grad_all()
            return torch.zeros(()), {}, {}
        self.skips.in_a_row = 0
        if self.grad_scaler.overflown > overflown:
            self.skips.too_large(step, self.grad_scaler.get_scale())
        self._check.after_step(step - self._start_step + 1)
        return result

    def _within_memory(self, step: int):
        """nerfstudio's step; once, where memory runs out, again with less.

        Raises:
            UserError: memory runs out again.
        """
        try:
            return super().train_iteration(step)
        except torch.cuda.OutOfMemoryError as error:
            done = self.pipeline.economise()
            if done is None:
                raise UserError(
                    f"Step {step} does not fit into the GPU's memory ({first_line(error)}): resume from the last "
                    "checkpoint with a smaller --pipeline.resolution, --pipeline.vae-precision bf16 or fewer "
                    "--pipeline.views-per-step."
                ) from error
        # Outside of the handler: the exception held the step's tensors.
        CONSOLE.log(f"[yellow]Memory ran out at step {step:d}, which is run again: {in_rich(done)}.")
        self.optimizers.zero_grad_all()
        torch.cuda.empty_cache()
        self._seed(step)
        return super().train_iteration(step)

    def _seed(self, step: int) -> None:
        """Let torch's own generator, from which jitter, chunks and densification draw, begin anew with each step: an
        edit that goes on then draws what an uninterrupted one does."""
        place = step + OF_STEPS * (1 + distributed.rank())
        torch.manual_seed(generator_at(self.pipeline.config.run.seed, place).initial_seed())

    def _title(self, step: int) -> str:
        first = step <= self._start_step and self.pipeline.config.compute.compile_prior
        return f"{self.config.method_name}: {'compiling the prior' if first else self.pipeline.stage_at(step)}"

    def _before_training(self) -> None:
        """A new edit may measure and change the scene before its first step."""
        plan = self.plan
        self._say_how_long()
        with self.train_lock:
            if not plan.resumes:
                require_visible(self.pipeline.scene, self.pipeline.views)
                self.session.history.portray_source()
                self.pipeline.begin(self.probe)
                distributed.share(itertools.chain(*self.optimizers.parameters.values()))
            folder = plan.run.config_path.parent if plan.resumes else None
            self.session.begin(self._start_step, plan.done, folder, plan.moments)
        self._log_images(self._start_step)
        self._show(now=True)

    def _say_how_long(self) -> None:
        """Before the first step, of an edit whose steps can be counted and are worth it."""
        method, pipeline = str(self.config.method_name), self.pipeline
        if not is_counted(method) or distributed.rank() > 0 or pipeline.config.prior in PACKAGED:
            return
        work, denoiser = work_of(method, pipeline.config, pipeline.working_size(0)), pipeline.prior.denoiser
        CONSOLE.log(in_rich(at_least(self._steps_to_run(), work, denoiser.device, denoiser.dtype)))

    def save_checkpoint(self, step: int) -> None:
        """As ever, while nobody changes the scene; a log of pictures gets some of it.

        Raises:
            UserError: the scene is no longer finite; the checkpoint before stays.
        """
        with self.train_lock:
            if self._check is not None:
                self._check.require_finite()
            self.pipeline.reached = self.session.reached
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
        self._make_while_paused()

    def _make_while_paused(self) -> None:
        """Make what was asked for, also before the pause and after the last step's begin."""
        if self.training_state == "paused":
            with self.train_lock:
                self.session.apply(self._next_step)
        if self.training_state != "training":
            self._show(now=True)

    def _init_viewer_state(self) -> None:
        """With few of the photographs, and those hidden: pages begin inside one of them."""
        super()._init_viewer_state()
        if isinstance(self.viewer_state, Viewer):
            self.viewer_state.set_camera_visibility(False)
            self.viewer_state.toggle_cameravis_button()

    def _update_viewer_state(self, step: int) -> None:
        """The viewer asks its pages to render again, where it is time; a page may come or go while it does."""
        if self.display is None:
            super()._update_viewer_state(step)
            return
        self.display.after_step()
        with suppress(KeyError):
            super()._update_viewer_state(step)
        if self.display.watched:
            self._show()

    def _show(self, now: bool = False) -> None:
        """Bring the panel, and with `now` the scene that pages render, up to date."""
        if self.display is not None and now:
            self.display.refresh()
        if self.panel is None:
            return
        status = f"**Step {self._next_step} of {self._total_steps}**: {self._doing()}. "
        left = None if self._bar is None else self._bar.tasks[0].time_remaining
        status += "" if left is None or self.training_state != "training" else f"About {in_words(left)} left. "
        status += "" if math.isnan(self._last_loss) else f"Loss {self._last_loss:.4g}."
        self.panel.update(status, self.session.note, self.pipeline.decisions, self.pipeline.last_view, now)

    def _doing(self) -> str:
        """What the edit is at, in words."""
        if self.training_state == "training":
            return self.pipeline.stage_at(self._next_step)
        return "paused" if self.training_state == "paused" else "ended and saved"

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
            for step in track(range(-steps, 0), "probe", console=scene_trainer.progress_console, transient=True):
                self._seed(step)
                if still:
                    with torch.no_grad():
                        terms = self.pipeline.get_train_loss_dict(step)[1]
                    self.pipeline.finite.require()
                else:
                    terms = Trainer.train_iteration(self, step)[1]
                losses.append(float(terms["edit_loss"].detach()))
            if self.grad_scaler.overflown:
                CONSOLE.log(
                    f"[yellow]{self.grad_scaler.overflown:d} of the probe's {steps:d} steps were skipped: their "
                    "gradients were too large for float16."
                )
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
        return distributed.mean(losses, self.pipeline.device)
