"""Steering an edit while it runs: changed settings, perturbations, snapshots, and the way back; logged for a replay.

    any thread ── request ──► queue ── between two steps ──► apply ──► session.jsonl ──► --replay

A change takes effect before the step it is logged with, and nothing else about the viewer reaches the edit. Replayed
with the same seed and device, a session therefore ends in the same scene, to the bit on a CPU.
"""

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from nerfstudio.utils.rich_utils import CONSOLE

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.settings_tree import read, settings, write
from pds_nerfstudio.pipelines.snapshot import SNAPSHOTS_FILE, Snapshot, Training, load_snapshots, save_snapshots
from pds_nerfstudio.pipelines.steering import (
    BEGIN,
    NAMES,
    SESSION_FILE,
    Change,
    begin_of,
    change_setting,
    said,
    settings_of,
)
from pds_nerfstudio.scenes.run_config import load_config
from pds_nerfstudio.text import in_rich


class Steered(Training, Protocol):
    """A trainer whose edit can be changed while it runs."""

    base_dir: Path


class Session:
    """The changes of one run: those asked for, those made, and those still to be replayed."""

    def __init__(self, trainer: Steered, replayed: Iterable[Change] = ()):
        """To be built where the optimisers are as at an edit's begin."""
        self.note = ""
        """What became of the last request, for the user."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called after something was replayed or refused: what a panel shows may then be out of date."""
        self._trainer = trainer
        self._queue: list[tuple[str, Any]] = []
        self._queue_lock = threading.Lock()
        self._replayed = [change for change in replayed if change.change != BEGIN]
        self._snapshots = {BEGIN: Snapshot.of(trainer, 0, scene=False)}
        self._done: list[Change] = []

    def request(self, change: str, value: Any = None) -> None:
        """Ask for a change before the next step, from any thread. Of one setting, the last request counts."""
        with self._queue_lock:
            if change in NAMES:
                self._queue = [asked for asked in self._queue if asked[0] != change]
            self._queue.append((change, value))

    def begin(self, step: int, done: Iterable[Change] = (), folder: Path | None = None) -> None:
        """Open the log of an edit that begins at `step`.

        Args:
            done: the changes of an edit that goes on, before `step`.
            folder: its run's folder, whose snapshots go on too.

        Raises:
            UserError: its snapshots are damaged.
        """
        self._snapshots = {BEGIN: Snapshot.of(self._trainer, 0, scene=False)} if folder is None else self._snapshots
        if folder is not None:  # adapters may have learned the source before its first step
            self._snapshots |= load_snapshots(folder / SNAPSHOTS_FILE, step)
        self._replayed = [change for change in self._replayed if change.step >= step]
        config = self._trainer.pipeline.config
        self._done = list(done) or [Change(step, BEGIN, begin_of(config))]
        known = dict(self._done[0].value) | {c.change: c.value for c in self._done if c.change in NAMES}
        now = settings_of(config)
        self._done += [Change(step, name, value) for name, value in now.items() if known.get(name) != value]
        self._write()
        self._keep_snapshots()

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
            if name in NAMES and settings_of(self._trainer.pipeline.config).get(name) == value:
                continue
            try:
                self._make(step, name, value)
            except (ValueError, TypeError, OverflowError, UserError) as error:
                refused, self.note = True, f"Refused: {error}"
                refusal = f"Before step {step}, {name} {value!r} was refused: {error}"
                CONSOLE.log(f"[yellow]{in_rich(refusal)}")
                continue
            self._done.append(Change(step, name, value))
            self.note = f"Before step {step}: {said(name, value)}."
            CONSOLE.log(in_rich(self.note))
        self._write()
        if settings_of(self._trainer.pipeline.config) != settings:
            self._keep_settings()
        if due or refused:
            self.on_answer()

    def _make(self, step: int, name: str, value: Any) -> None:
        trainer, pipeline = self._trainer, self._trainer.pipeline
        if name in NAMES:
            before = settings_of(pipeline.config).get(name)
            change_setting(pipeline.config, name, value)
            if name in pipeline.region_depends_on:
                try:
                    pipeline.freeze()
                except UserError:
                    change_setting(pipeline.config, name, before)
                    pipeline.freeze()
                    raise
        elif name == "snapshot":
            self._snapshots[name] = Snapshot.of(trainer, step)
            self._keep_snapshots()
        elif name == "perturb":
            with torch.no_grad():
                pipeline.perturb_scene(float(value))
            for optimizer in trainer.optimizers.optimizers.values():
                optimizer.state.clear()  # its moments belong to the scene before
        elif value not in ("source", "snapshot"):
            raise ValueError('it is the "source" or the "snapshot" that can be restored.')
        elif value == "source":
            self._snapshots[BEGIN].put_back(trainer, pipeline.source_state())
        elif value not in self._snapshots:
            raise ValueError("there is no snapshot: take one first.")
        else:
            self._snapshots[value].put_back(trainer)

    def _keep_snapshots(self) -> None:
        if distributed.rank() == 0:
            save_snapshots(self._snapshots, self._trainer.base_dir / SNAPSHOTS_FILE)

    def _write(self) -> None:
        if distributed.rank() > 0:
            return
        lines = (json.dumps(vars(change), ensure_ascii=False) + "\n" for change in self._done)
        write_whole(self._trainer.base_dir / SESSION_FILE, "".join(lines))

    def _keep_settings(self) -> None:
        """Let the run's `config.yml` say what the edit now goes by: who resumes or judges it reads that."""
        path = self._trainer.base_dir / "config.yml"
        if path.is_file() and distributed.rank() == 0:
            saved, now = load_config(path), self._trainer.pipeline.config
            for name in dict(settings(now)):
                if name not in ("model", "datamanager"):
                    write(saved.pipeline, name, read(now, name))
            write_whole(path, yaml.dump(saved))
