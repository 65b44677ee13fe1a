"""Steering an edit while it runs: changed settings, perturbations, and the way back; logged for a replay.

    any thread ── request ──► queue ── between two steps ──► apply ──► session.jsonl ──► --replay

A change takes effect before the step it is logged with, and nothing else about the viewer reaches the edit. Replayed
with the same seed and device, a session therefore ends in the same scene, to the bit on a CPU.
"""

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.utils.rich_utils import CONSOLE

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.moments import SOURCE, Moment
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.history import Edit, History
from pds_nerfstudio.pipelines.settings_tree import read, settings, write
from pds_nerfstudio.pipelines.steering import (
    AS,
    BEGIN,
    NAMES,
    SESSION_FILE,
    Change,
    adopt_settings,
    begin_of,
    change_setting,
    is_way_back,
    said,
    settings_at,
    settings_of,
)
from pds_nerfstudio.scenes.run_config import load_config
from pds_nerfstudio.text import in_rich


class Session:
    """The changes of one run: those asked for, those made, and those still to be replayed."""

    def __init__(self, trainer: Edit, history: History, replayed: Iterable[Change] = ()):
        """`replayed` are made again at their steps."""
        self.note = ""
        """What became of the last request, for the user."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called after what a panel shows may have gone out of date."""
        self.history = history
        self._trainer = trainer
        self._queue: list[tuple[str, Any]] = []
        self._asked: list[tuple[str, Any]] = []
        """What is being made of it."""
        self._queue_lock = threading.Lock()
        self._replayed = [change for change in replayed if change.change != BEGIN]
        self._done: list[Change] = []

    def request(self, change: str, value: Any = None) -> None:
        """Ask for a change before the next step, from any thread. Of one setting, the last request counts."""
        with self._queue_lock:
            if change in NAMES:
                self._queue = [asked for asked in self._queue if asked[0] != change]
            self._queue.append((change, value))

    def value_of(self, name: str) -> Any:
        """What one of the settings is to be, from any thread: as last asked for, or else as it is."""
        with self._queue_lock:
            asked = [value for change, value in self._asked + self._queue if change == name]
        return asked[-1] if asked else settings_of(self._trainer.pipeline.config)[name]

    @property
    def reached(self) -> tuple[int, int]:
        """How many lines the log has, and the history moments: what a checkpoint of now contains."""
        return len(self._done), len(self.history.moments.taken)

    def begin(
        self, step: int, done: Iterable[Change] = (), folder: Path | None = None, moments: int | None = None
    ) -> None:
        """Open the log of an edit that begins at `step`.

        Args:
            done: the changes that the checkpoint of an edit that goes on contains.
            folder: its run's folder, whose history goes on too.
            moments: how many of that history the checkpoint knows of.

        Raises:
            UserError: that history is damaged.
        """
        self.history.begin(step, folder, moments)
        self._replayed = [change for change in self._replayed if change.step >= step]
        config = self._trainer.pipeline.config
        self._done = list(done) or [Change(step, BEGIN, begin_of(config))]
        known, now = settings_at(self._done, self._done[-1].step + 1), settings_of(config)
        self._done += [Change(step, name, value) for name, value in now.items() if known.get(name) != value]
        self._write()

    def apply(self, step: int) -> None:
        """Make the changes that are due before `step`; the caller holds the trainer's lock."""
        if not self._done:
            return  # a page may ask before the edit begins
        self.history.reach(step)
        due = [change for change in self._replayed if change.step <= step]
        self._replayed = [change for change in self._replayed if change.step > step]
        with self._queue_lock:
            self._asked, self._queue = self._queue, []
        if not due and not self._asked:
            return
        settings = settings_of(self._trainer.pipeline.config)
        for name, value in [(change.change, change.value) for change in due] + self._asked:
            if name in NAMES and settings_of(self._trainer.pipeline.config).get(name) == value:
                continue
            try:
                change = self._make(step, name, value)
            except (ValueError, TypeError, OverflowError, UserError) as error:
                self.note = f"Refused: {error}"
                refusal = f"Before step {step}, {name} {value!r} was refused: {error}"
                CONSOLE.log(f"[yellow]{in_rich(refusal)}")
                continue
            self._done.append(change)
            self.note = f"Before step {step}: {said(change.change, change.value)}."
            CONSOLE.log(in_rich(self.note))
        self._asked = []
        self._write()
        if settings_of(self._trainer.pipeline.config) != settings:
            self._keep_settings()
        self.on_answer()

    def end(self) -> None:
        """Say what was asked for too late to be made."""
        with self._queue_lock:
            asked, self._queue = self._queue, []
        if asked:
            late = ", ".join(name if value is None else said(name, value) for name, value in asked)
            self.note = f"The edit has ended before this could be made: {late}. Start another from it."
            CONSOLE.log(f"[yellow]{in_rich(self.note)}")

    def _make(self, step: int, name: str, value: Any) -> Change:
        """Make what was asked for, after a moment of the edit as it is; returns what goes into the log."""
        history, trainer, pipeline = self.history, self._trainer, self._trainer.pipeline
        if name == "snapshot":
            return Change(step, name, history.name(step, str(value or name)).name)
        if name in ("undo", "redo"):
            name, value = "restore", self._target(self._last_of(name)) | {AS: name}
        if name == "restore":
            value = self._target(value)
        moment = history.before(step, name, said(name, value), value["to"] if name == "restore" else None)
        try:
            if name in NAMES:
                self._set(name, value)
            elif name == "perturb":
                with torch.no_grad():
                    pipeline.perturb_scene(float(value))
                for optimizer in trainer.optimizers.optimizers.values():
                    optimizer.state.clear()  # its moments belong to the scene before
            elif name == "restore":
                self._go_back(value["to"], value["settings"])
            else:
                raise ValueError(f"no edit can {name}.")
        except Exception:
            if moment is not None:
                history.forget(moment)
            raise
        self._list(name, value, moment)
        return Change(step, name, value)

    def _list(self, name: str, value: Any, moment: Moment | None) -> None:
        """Say what can be undone and redone after a change. A replay may go by a log of 0.1.0, which does not say what
        was undone."""
        way, moments = value.get(AS) if name == "restore" else None, self.history.moments
        if way == "undo" and value["to"] in moments.undo[-1:]:
            self.history.undone(moment)
        elif way == "redo" and value["to"] in moments.redo[-1:]:
            self.history.redone(moment)
        else:
            self.history.changed(moment)

    def _set(self, name: str, value: Any) -> None:
        pipeline = self._trainer.pipeline
        before = settings_of(pipeline.config).get(name)
        change_setting(pipeline.config, name, value)
        if name in pipeline.region_depends_on:
            try:
                pipeline.freeze()
            except UserError:
                change_setting(pipeline.config, name, before)
                pipeline.freeze()
                raise

    def _last_of(self, kind: str) -> str:
        keys = self.history.moments.undo if kind == "undo" else self.history.moments.redo
        if not keys:
            raise ValueError(f"there is nothing to {kind}.")
        return keys[-1]

    def _target(self, value: Any) -> dict[str, Any]:
        """What to go back to, by the key or name of a moment: `{"to": its key, "settings": what then held}`.

        A log that is replayed has it already.
        """
        if is_way_back(value):
            return value
        if value == SOURCE:
            return {"to": SOURCE, "settings": self._done[0].value}
        moment = self.history.find(str(value))
        return {"to": moment.key, "settings": moment.settings}

    def _go_back(self, key: str, settings: dict[str, Any]) -> None:
        trainer, pipeline = self._trainer, self._trainer.pipeline
        snapshot = self.history.scene_of(key)
        before = begin_of(pipeline.config)
        try:
            adopt_settings(pipeline.config, settings)
        except UserError:
            adopt_settings(pipeline.config, before)
            raise
        snapshot.put_back(trainer, pipeline.source_state() if key == SOURCE else None)

    def _write(self) -> None:
        if distributed.rank() > 0:
            return
        lines = (json.dumps(vars(change)) + "\n" for change in self._done)
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
