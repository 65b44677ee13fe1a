"""What `pds edit` keeps of an edit in its folder: which stages were begun, by which commands, and which have ended; one
call at a time writes there.

    OUT/edit.json    a list of stages: name, command, whether it was begun, seconds once it has ended; with each the
                     call that goes on with the edit
    OUT/edit.lock    held for as long as a call or a stage that it began lives
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from pds_nerfstudio.cli.stages import Stage
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import appended, is_vacant, read_json, write_whole

STATE, LOCK = "edit.json", "edit.lock"


class Record:
    """Of the folder of one edit."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.call = ""
        """What is typed to go on."""
        self.started: set[str] = set()
        """Names of the stages that a call of this command has begun."""
        self._lock: IO[str] | None = None

    @property
    def held(self) -> list[int]:
        """Descriptors that stages inherit, so that the folder stays locked while one of them lives."""
        return [self._lock.fileno()] if self._lock else []

    def commands(self) -> list[str]:
        """Of the stages of an earlier call."""
        file = self._folder / STATE
        return [entry["command"] for entry in _read_state(file).values()] if file.is_file() else []

    def finished(self, stages: Sequence[Stage]) -> dict[str, float]:
        """Seconds of the stages that earlier calls of the same command have finished, by what the stages themselves
        have left.

        Raises:
            UserError: the folder holds something else, or what other commands have made.
        """
        file = self._folder / STATE
        if not file.is_file():
            if not is_vacant(self._folder, LOCK):
                raise UserError(
                    f"--out {self._folder} is not empty: give a folder that is new, such as --out "
                    f"{shlex.quote(f'{self._folder}-2')}."
                )
            return {}
        before = _read_state(file)
        self.started, done = set(), {}
        for stage in stages:
            entry = before.pop(stage.name, None)
            if entry is None:
                break
            self.started |= {stage.name} if entry.get("started") else set()
            ours = stage.name in self.started and not stage.links_below(self._folder)
            if (entry["seconds"] is not None or (ours and stage.leads_on)) and stage.line != entry["command"]:
                raise self._another(stage.name, entry["command"])
            if not self._is_finished(stage, entry, ours):
                break
            seconds = entry["seconds"]
            done[stage.name] = _seconds_between_files(stage.result) if seconds is None else seconds
        for name, entry in before.items():
            if entry["seconds"] is not None and entry["command"] not in [stage.line for stage in stages]:
                raise self._another(name, entry["command"])
        return done

    def _another(self, name: str, command: str) -> UserError:
        call, new = call_in(self._folder), shlex.quote(f"{self._folder}-2")
        return UserError(
            f"--out {self._folder} holds another edit, {call}: give a folder that is new, such as --out "
            f"{new}, or the arguments of that edit."
            if call
            else f"--out {self._folder} holds an edit whose stage {name} was another command ({command}): give a "
            "folder that is new, or the arguments of that edit."
        )

    @staticmethod
    def _is_finished(stage: Stage, entry: dict[str, Any], ours: bool) -> bool:
        """A training that is there is asked itself; for anything else, and what was removed since, the record holds."""
        if stage.trains and stage.result.exists() and ours:
            return stage.has_result()
        return entry["seconds"] is not None

    def keep(self, stages: Sequence[Stage], done: dict[str, float]) -> None:
        entries = [
            {
                "name": s.name,
                "command": s.line,
                "started": s.name in self.started,
                "seconds": done.get(s.name),
                "call": self.call,
            }
            for s in stages
        ]
        write_whole(self._folder / STATE, json.dumps(entries, indent=2) + "\n")

    def lock(self) -> None:
        """Keep others out of the folder for as long as this process or a stage that it began lives.

        Raises:
            UserError: one of an earlier call still does.
        """
        try:
            import fcntl
        except ImportError:  # Windows has other locks
            return
        try:
            self._lock = appended(self._folder / LOCK)
        except OSError as error:
            raise UserError(
                f"{self._folder / LOCK} cannot be opened ({error.strerror}): give --out a folder that is your own."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"A stage of an earlier call is still writing to --out {self._folder}: wait for it, or end it."
            ) from error

    def begin(self, stage: Stage) -> None:
        """Count a stage as begun, once it is sure that whatever is in its place was made by a call of this command.

        Raises:
            UserError: none has begun the stage, or a link leads elsewhere.
        """
        links = stage.links_below(self._folder)
        if links or (stage.trains and stage.name not in self.started and (stage.result.exists() or stage.parts)):
            place = links[0] if links else stage.result
            raise UserError(f"{place} was not made by this edit: move it away, or give a folder that is new.")
        self.started.add(stage.name)


def call_in(folder: Path) -> str:
    """What goes on with the edit of a folder; empty where there is none, or one of an earlier version.

    The folder may be somebody else's, and whoever reads this types it: nothing but a `pds edit` is returned.
    """
    file = folder / STATE
    try:
        call = next((entry.get("call", "") for entry in _read_state(file).values()), "") if file.is_file() else ""
    except UserError:
        return ""
    return call if shlex.split(call)[:2] == ["pds", "edit"] else ""


def _seconds_between_files(run: Path) -> float:
    """From the begin of a training to its last checkpoint, where no call lived to measure it."""
    *_, last = sorted(path.stat().st_mtime for path in run.glob("*/step-*.ckpt"))
    return round(max(0.0, last - (run / "config.yml").stat().st_mtime), 1)


def _read_state(file: Path) -> dict[str, dict[str, Any]]:
    """What an earlier call has recorded of its stages, by name.

    Raises:
        UserError: it cannot be read.
    """
    entries = read_json(file, list, "The record", "give --out a folder that is new")
    kinds = {"name": str, "command": str, "seconds": int | float | None}
    for entry in entries:
        if (
            not isinstance(entry, dict)
            or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
            or not all(_is_a_line(line) for line in (entry["command"], entry.get("call", "")))
        ):
            raise UserError(f"The record {file} is damaged: give --out a folder that is new.")
    return {entry["name"]: entry for entry in entries}


def _is_a_line(text: Any) -> bool:
    """Whether a shell could split it into words."""
    try:
        return isinstance(text, str) and shlex.split(text) is not None
    except ValueError:
        return False
