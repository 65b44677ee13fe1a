"""nerfstudio's trainer with what long runs need: atomic checkpoints, an honest progress bar, errors in one sentence."""

import inspect
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pds_nerfstudio.alive import held, is_running
from pds_nerfstudio.errors import UserError, first_line, one_sentence
from pds_nerfstudio.files import private_folder, require_writable
from pds_nerfstudio.heaps import share_heaps
from pds_nerfstudio.machine import require_device
from pds_nerfstudio.next_steps import after_reconstruction, resuming, say_next
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.beginning import begun_here, close_event_writers, leaving_nothing
from pds_nerfstudio.pipelines.interruption import AT_ONCE, BEFORE_ANY_STEP, FAILED, interruptions
from pds_nerfstudio.pipelines.pace import Pace
from pds_nerfstudio.ranges import require_steps
from pds_nerfstudio.runs import BY_CLOCK, point_latest_at
from pds_nerfstudio.scenes.dataset import reading_dataset
from pds_nerfstudio.scenes.families import family_of, scene_of, scene_type
from pds_nerfstudio.scenes.places import absolute, make_absolute
from pds_nerfstudio.scenes.views import train_views
from pds_nerfstudio.text import in_rich

LAST_PICTURE = 30
"""Seconds that a page's last picture may take when a training has ended."""
NAMED_LATER = "{timestamp}"
"""nerfstudio's word for a run that has no name yet."""
progress_console: Console = CONSOLE
"""Where progress bars are drawn; `pds demo` keeps nerfstudio's own output in a log file and draws elsewhere."""


@dataclass
class SceneTrainerConfig(TrainerConfig):
    """nerfstudio's trainer settings, for a `SceneTrainer`."""

    _target: type = field(default_factory=lambda: SceneTrainer)
    made_in: Annotated[Path | None, tyro.conf.Suppress] = None
    """The run's folder when it began, from which its dataset is found again when both have moved; set by the run."""
    verbose: bool = False
    """Print every setting before the first step. The run's config.yml always holds them."""

    def set_timestamp(self) -> None:
        """What nerfstudio calls once it has read the command line: refuse what cannot work, and name the run.

        Its name is the clock's time, and what it does in words, unless --timestamp was given; a run that began in the
        same second keeps its folder to itself.
        """
        with one_sentence():
            require_steps(self)
            require_device(str(self.machine.device_type), "--machine.device-type")
            require_writable(self.output_dir, "--output-dir")
        make_absolute(self)
        if BY_CLOCK.match(self.timestamp) and self._would_replace(self.get_base_dir()):
            self.timestamp = NAMED_LATER  # a run's own config.yml, read by --load-config, names that run
        given = self.timestamp
        self._name_by_clock()
        while self.timestamp != given and self.get_base_dir().exists():
            time.sleep(0.1)
            self.timestamp = given
            self._name_by_clock()
        self._refuse_to_replace(self.get_base_dir())
        self.made_in = absolute(self.get_base_dir())
        if self.made_in is not None and not self.made_in.exists():
            begun_here.add(self.made_in)

    def _refuse_to_replace(self, folder: Path) -> None:
        """End the program where `folder` is a run that another training writes, or has finished: each checkpoint
        replaces those before. A training that begins with that run's own goes on there."""
        if reason := self._would_replace(folder):
            with one_sentence():
                raise UserError(f"--timestamp {self.timestamp}: {reason}: give another.")

    def _would_replace(self, folder: Path) -> str | None:
        """Why `folder` may not be written to, in words; None where it may."""
        if is_running(folder):
            return f"another training is writing {folder}"
        if any(self.get_checkpoint_dir().glob("step-*.ckpt")) and not self._goes_on_in(folder):
            return f"{folder} is a run already, whose checkpoints would be replaced"
        return None

    def _goes_on_in(self, folder: Path) -> bool:
        """Whether it begins with a checkpoint of that run."""
        begins = self.load_dir or (self.load_checkpoint.parent if self.load_checkpoint else None)
        return begins is not None and begins.resolve().is_relative_to(folder.resolve())

    def _name_by_clock(self) -> None:
        given = self.timestamp
        super().set_timestamp()
        if self.timestamp != given and (words := self.words()):
            self.timestamp += f"_{words}"

    def words(self) -> str:
        """What stands behind the time in the name of the run's folder."""
        return ""

    def print_to_terminal(self) -> None:
        """nerfstudio prints every setting, some 300 lines; `config.yml` holds them in any case."""
        if self.verbose:
            super().print_to_terminal()


class SceneTrainer(Trainer):
    """A trainer whose checkpoints are complete or absent, whatever interrupts it."""

    _bar: Progress | None = None
    _task = TaskID(0)
    _pace: Pace | None = None
    """What times the first steps."""
    _last_step: int | None = None
    """The last step that was run."""
    _last_loss = math.nan
    """Of that step."""
    _signal: int | None = None
    """What has asked this training to stop."""
    _stops = False
    """What nerfstudio has set `stop_training` to."""
    is_edit = False
    """Whether it begins with another run's scene, and goes on by itself alone."""
    _waiting = False
    """Whether nothing is left to do but to show the result in the viewer."""
    _held: AbstractContextManager[Any] = nullcontext()
    """What tells others that this process writes the run."""
    _runs_on: threading.Thread | None = None
    """The thread that trains, while it does."""

    @property
    def stop_training(self) -> bool:
        """Whether the training ends before its next step. nerfstudio resets it once the viewer is there, and must not
        forget a signal."""
        return self._stops or self._signal is not None

    @stop_training.setter
    def stop_training(self, stops: bool) -> None:
        self._stops = stops

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything; a dataset that cannot be read ends in one sentence."""
        if distributed.rank() == 0:
            self._held = holding = ExitStack()  # let go by `train`, or with this object
            holding.enter_context(held(self.base_dir))
        with self._leaving_nothing(), reading_dataset(family_of(self.config) == "splatfacto"):
            if (family := family_of(self.config)) is not None:
                scene_type(family).require(str(self.device))
            if self.config.is_viewer_enabled():
                share_heaps()
            super().setup(test_mode)
            self._load_images()
            if family is not None:
                scene_of(self.pipeline.model).made_from(train_views(self.pipeline.datamanager))

    def _load_images(self) -> None:
        """Decode what a splats' datamanager otherwise decodes in the first steps, held-out photographs too."""
        for split in ("train", "eval"):
            getattr(self.pipeline.datamanager, f"cached_{split}", None)

    def _leaving_nothing(self) -> AbstractContextManager[None]:
        return leaving_nothing(self.base_dir, self.config.output_dir)

    def train(self) -> None:
        """Train; `pds runs` knows until it has ended."""
        with self._held:
            self._train()

    def _train(self) -> None:
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
        with self._leaving_nothing():
            self._before_training()
        self._pace = Pace(self._steps_to_run()) if distributed.rank() == 0 else None
        bar = Progress(*columns, console=progress_console, refresh_per_second=2, disable=distributed.rank() > 0)
        with self._leaving_nothing(), interruptions(self._interrupt), bar as self._bar:
            try:
                self._task = self._bar.add_task(self._title(0), total=total, completed=self._start_step, note="")
                self._runs_on = threading.current_thread()
                super().train()
            finally:
                close_event_writers()
                self._let_pages_go()
                self._runs_on = None

    def train_iteration(self, step: int):
        """One step of nerfstudio's, shown in the bar.

        What it returns has no graph: nerfstudio keeps it, and a graph remembers the sizes of parameters that a restored
        snapshot changes.
        """
        loss, losses, metrics = super().train_iteration(step)
        self._last_step, self._last_loss = step, float(loss.detach())
        if self._pace is not None and (said := self._pace.after_step(torch.device(self.device))):
            CONSOLE.log(in_rich(said))
        if self._bar is not None:
            note = f"loss {self._last_loss:.4g}"
            self._bar.update(self._task, completed=step + 1, note=note, description=self._title(step))
        return loss.detach(), *(
            {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
            for values in (losses, metrics)
        )

    def _interrupt(self, number: int) -> None:
        """A first signal lets the step end; a second one stops at once, with the last checkpoint whole.

        A terminal that is closed may send two: its shell's and the system's.
        """
        if self._waiting:
            raise SystemExit(0)
        if self._signal is not None:
            if number in AT_ONCE:
                raise SystemExit(FAILED + number)
            return
        self._signal = number
        with to_whom_it_may_reach():
            CONSOLE.log("Stopping after this step; press Ctrl-C again to stop at once.")

    def _after_train(self) -> None:
        """The end of a training; of an interrupted one with a checkpoint, and how to go on."""
        if self._signal is None:
            if distributed.rank() == 0:  # with the viewer, what follows the callbacks waits for Ctrl-C
                self.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._conclude))
            super()._after_train()
            return
        if self._last_step is not None:
            self.save_checkpoint(self._last_step)
        with to_whom_it_may_reach():
            self._say_stopped()
        raise SystemExit(FAILED + self._signal)

    def _say_stopped(self) -> None:
        """After how many steps, and how to go on."""
        if self._last_step is None:
            CONSOLE.print(in_rich(BEFORE_ANY_STEP))
            return
        going_on = resuming(str(self.config.method_name), self.base_dir.resolve(), self.is_edit)
        CONSOLE.print(f"Stopped after {self._last_step + 1:d} steps.", highlight=False)
        say_next(CONSOLE, [going_on], "To go on:")

    def _conclude(self, step: int) -> None:
        """Once the last checkpoint is saved: say what to do with the scene."""
        say_next(CONSOLE, after_reconstruction(self.base_dir, self.config.pipeline.datamanager.data))

    def _train_complete_viewer(self) -> None:
        """Wait for Ctrl-C, which then is no interruption."""
        if not self.config.is_viewer_enabled():
            return
        self._waiting = True
        CONSOLE.print("All of it is saved. The viewer stays open until you press Ctrl-C.")
        super()._train_complete_viewer()

    def shutdown(self) -> None:
        """Stop from another thread: the viewer goes once the step is over that still writes into it."""
        while self._runs_on not in (None, threading.current_thread()) and not self._waiting:
            self.stop_training = True  # again and again: a training that begins resets it
            time.sleep(0.02)
        super().shutdown()

    def _let_pages_go(self) -> None:
        """End the threads that render for pages: a process that exits while one is inside torch is aborted.

        A page that has left is not listed any more while its thread finishes its last picture.
        """
        if not isinstance(self.viewer_state, Viewer):
            return
        self.viewer_state.ready = False  # whoever comes now waits
        threads: set[Any] = {*self.viewer_state.render_statemachines.values()}
        threads |= {thread for thread in threading.enumerate() if isinstance(thread, RenderStateMachine)}
        for thread in threads:
            thread.running, thread.interrupt_render_flag = False, True
        for thread in threads:
            thread.join(LAST_PICTURE)

    def _before_training(self) -> None:
        """What happens once, before the first step."""

    def _title(self, step: int) -> str:
        """What the bar says on its left."""
        return str(self.config.method_name)

    def save_checkpoint(self, step: int) -> None:
        """Write beside the checkpoint folder, then move into it: a file there is always whole."""
        if distributed.rank() > 0:
            return
        folder = self.checkpoint_dir
        try:
            with private_folder(folder) as partial:
                self.checkpoint_dir = partial
                super().save_checkpoint(step)
                folder.mkdir(parents=True, exist_ok=True)
                for path in partial.glob("*.ckpt"):
                    os.replace(path, folder / path.name)
                    written = folder / path.name
                    if self.config.save_only_latest_checkpoint:
                        for old in folder.glob("*.ckpt"):
                            if old != written:
                                old.unlink()
            if BY_CLOCK.match(self.config.timestamp):  # whoever names folders himself finds them himself
                point_latest_at(self.base_dir, self.config.output_dir)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"The checkpoint of step {step} could not be written ({first_line(error)}): make room on the "
                f"disk; the last whole one is kept in {folder}."
            ) from error
        finally:
            self.checkpoint_dir = folder

    def _steps_to_run(self) -> int:
        return self.config.max_num_iterations


@contextmanager
def to_whom_it_may_reach() -> Iterator[None]:
    """Within this block, what cannot be printed is left out: the terminal may be closed, or Ctrl-C have ended the `tee`
    behind a pipe, which rich answers with a SystemExit. Nothing more is then printed either."""
    try:
        yield
    except (OSError, SystemExit):
        CONSOLE.quiet = progress_console.quiet = True
    except RuntimeError:  # the signal came while its file was being written to
        pass


@contextmanager
def additional_steps(config: TrainerConfig, start: int) -> Iterator[None]:
    """PyPI's 1.1.5 runs `max_num_iterations` more steps, its main branch so many in all: say what each needs."""
    total = config.max_num_iterations
    if "self._start_step + num_iterations" in inspect.getsource(Trainer.train):
        config.max_num_iterations = total - start
    try:
        yield
    finally:
        config.max_num_iterations = total
