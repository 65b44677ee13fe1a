"""What an edit keeps of how it goes: moments every so many steps and before every change (see `moments`).

A moment's key says no more than when it was taken, so that an edit that is replayed has the same ones. Scenes take room
on the disk: where there are too many of them, those that no change was made at go first. Their pictures stay.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import written
from pds_nerfstudio.moments import FOLDER, SOURCE, Moment, Moments, read_moments
from pds_nerfstudio.pictures import as_pil
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.snapshot import Snapshot, Training, load_snapshot, save_snapshot
from pds_nerfstudio.pipelines.steering import NAMES, begin_of
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.shots import shoot, view_camera
from pds_nerfstudio.text import in_rich

Kept = Literal["scenes", "pictures", "nothing"]
"""Of every moment: its scene and pictures, its pictures alone, or none of it but what is asked for by name."""

BEGIN = "begin.pt"
"""The optimisers as the edit began with them, and its adapters; the scene is read from the source's run."""
VIEWS = 3
"""Training views that a picture shows beside each other."""
SHORT_SIDE = 256
"""Of each, in pixels."""
ONE_CHANGE = 20
"""Steps within which changes of one setting count as one: a slider that is moved."""
ONE_BY_ONE = ("pick",)
"""Settings whose changes are undone one by one: clicks and rectangles."""
MOMENTS = 20
"""How many an edit has of itself."""
FEWEST_STEPS = 10
"""Between two of them."""


class Edit(Training, Protocol):
    """A trainer with a folder for its run."""

    base_dir: Path


def between(steps: int) -> int:
    """Steps from one moment to the next in an edit of so many."""
    return max(FEWEST_STEPS, -(-steps // MOMENTS))


class History:
    """The moments of one edit."""

    def __init__(
        self, edit: Edit, kept: Kept = "scenes", every: int = 1, room: float = 4e9, wanted: Collection[str] = ()
    ) -> None:
        """To be built where the optimisers are as at an edit's begin.

        Args:
            kept: of every moment.
            every: steps between two moments.
            room: bytes that scenes may take.
            wanted: keys of moments whose scenes are kept in any case.
        """
        self._edit, self._kept, self._every, self._room, self._wanted = edit, kept, every, room, wanted
        self._begin = Snapshot.of(edit, 0, scene=False).copied()
        self.moments = Moments()
        self.last: str | None = None
        """The key of the moment taken last."""

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._edit.base_dir / FOLDER

    @property
    def keeps_scenes(self) -> bool:
        """Whether nothing is lost by going back."""
        return self._kept == "scenes"

    def begin(self, step: int, before: Path | None = None, taken: int | None = None) -> None:
        """Open it for an edit that begins at `step`.

        Args:
            before: the folder of the run that goes on, whose moments go on too.
            taken: how many of those its checkpoint knows of; by default, all that were taken before the step.

        Raises:
            UserError: they are damaged.
        """
        self._begin = Snapshot.of(self._edit, 0, scene=False).copied() if before is None else self._begin
        if before is not None:
            self.moments = read_moments(before / FOLDER).until(step, taken)
            if (before / FOLDER / BEGIN).is_file():
                self._begin = load_snapshot(before / FOLDER / BEGIN)
            if distributed.rank() == 0:
                self._take_along(before / FOLDER)
        if distributed.rank() > 0:
            return
        if before is None or not (self.folder / BEGIN).exists():
            save_snapshot(self._begin, self.folder / BEGIN)
        self.moments.write(self.folder)

    def portray_source(self) -> None:
        """To be called while the scene is the source: draw it, as nothing of it is to be loaded once more."""
        if self._kept != "nothing" and distributed.rank() == 0:
            self._draw(SOURCE)

    def _take_along(self, folder: Path) -> None:
        of_moments = (f"{key}{ending}" for key in self.moments.taken for ending in (".jpg", ".pt"))
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (BEGIN, f"{SOURCE}.jpg", *of_moments):
            if not (folder / name).is_file():
                continue
            try:
                os.link(folder / name, self.folder / name)  # neither file is ever written to
            except OSError:
                shutil.copyfile(folder / name, self.folder / name)

    def reach(self, step: int) -> None:
        """Take a moment where one is due."""
        if step % self._every == 0:
            self._take_between(step)

    def end(self, step: int) -> None:
        """Take the last one, of which a checkpoint has the scene."""
        self._take_between(step, scene=False)

    def _take_between(self, step: int, scene: bool | None = None) -> None:
        """Where there is no room for it, an edit goes on without a history."""
        if self._kept == "nothing" or str(step) in self.moments.taken:
            return
        try:
            self._take(Moment(str(step), step, self._settings()), scene)
        except (UserError, OSError) as error:
            self._kept = "nothing"
            CONSOLE.log(f"[yellow]The edit goes on without its history: {in_rich(first_line(error))}")

    def before(self, step: int, change: str, words: str, target: str | None = None) -> Moment | None:
        """Take a moment before a change; None where the last one before a change of the same setting will do.

        Args:
            target: the moment that the change goes back to, which is not to make room.
        """
        last = self.moments.taken.get(self.moments.undo[-1]) if self.moments.undo else None
        slides = change in NAMES and change not in ONE_BY_ONE
        if slides and last is not None and last.change == change and step - last.step < ONE_CHANGE:
            return None
        return self._take(Moment(self._next_key(step), step, self._settings(), change, words), target=target)

    def name(self, step: int, name: str) -> Moment:
        """Take a moment that is kept whatever room it takes."""
        return self._take(Moment(self._next_key(step), step, self._settings(), name=name), scene=True)

    def forget(self, moment: Moment) -> None:
        """Take back what was taken before a change that was refused."""
        self.moments.taken.pop(moment.key, None)
        self.last = next(reversed(self.moments.taken), None)
        for ending in (".jpg", ".pt"):
            (self.folder / f"{moment.key}{ending}").unlink(missing_ok=True)
        self._write()

    def changed(self, moment: Moment | None) -> None:
        """A change was made after `moment`, and can be undone."""
        if moment is not None:
            self.moments.undo.append(moment.key)
        self.moments.redo.clear()
        self._write()

    def undone(self, moment: Moment | None) -> None:
        """The last change was undone after `moment`."""
        self._moved(moment, self.moments.undo, self.moments.redo)

    def redone(self, moment: Moment | None) -> None:
        """What was undone was redone after `moment`."""
        self._moved(moment, self.moments.redo, self.moments.undo)

    def _moved(self, moment: Moment | None, there: list[str], back: list[str]) -> None:
        there.pop()
        if moment is not None:
            back.append(moment.key)
        self._write()

    def scene_of(self, key: str) -> Snapshot:
        """What is put back to go to a moment.

        Raises:
            UserError: its scene is not kept, or its file is damaged.
        """
        if key == SOURCE:
            return self._begin
        moment = self.find(key)
        if not moment.scene:
            raise UserError(
                f"of {moment.title} only the picture is kept: --history scenes and a larger --history-gb keep more."
            )
        return load_snapshot(self.folder / f"{moment.key}.pt")

    def find(self, key: str) -> Moment:
        """A moment by its key, or by its name, of which the last one counts.

        Raises:
            UserError: there is none.
        """
        if key in self.moments.taken:
            return self.moments.taken[key]
        for moment in reversed(self.moments.taken.values()):
            if moment.name == key:
                return moment
        raise UserError(f"there is no moment {key!r} in the history.")

    def _next_key(self, step: int) -> str:
        number = 1
        while f"{step}.{number}" in self.moments.taken:
            number += 1
        return f"{step}.{number}"

    def _settings(self) -> dict:
        return begin_of(self._edit.pipeline.config)

    def _take(self, moment: Moment, scene: bool | None = None, target: str | None = None) -> Moment:
        scene = self.keeps_scenes or moment.key in self._wanted if scene is None else scene
        moment = replace(moment, scene=scene)
        if distributed.rank() == 0:
            if scene:
                save_snapshot(Snapshot.of(self._edit, moment.step), self.folder / f"{moment.key}.pt")
            if self._kept != "nothing":
                self._draw(moment.key)
        self.moments.taken[moment.key] = moment
        self.last = moment.key
        if distributed.rank() == 0:
            self._make_room(target)
            self.moments.write(self.folder)
        return moment

    def _draw(self, key: str) -> None:
        """A few training views beside each other."""
        pipeline = self._edit.pipeline
        views = pipeline.views
        alike = [i for i in range(len(views)) if views.size(i) == views.size(0)]
        chosen = [alike[i] for i in evenly(len(alike), VIEWS)]
        self.moments.views = len(chosen)
        model = pipeline.model
        cameras = [view_camera(views, i, SHORT_SIDE, model.device) for i in chosen]
        images = [shoot(model, camera).image for camera in cameras]
        with written(self.folder / f"{key}.jpg") as partial:
            as_pil(torch.cat(images, dim=-1)).save(partial, "JPEG", quality=92)

    def _make_room(self, target: str | None = None) -> None:
        """Let scenes other than `target` go until those that are left fit: first those between changes, the most
        crowded ones first, then those before the oldest changes."""
        sizes = {moment.key: self._size(moment.key) for moment in self.moments.taken.values() if moment.scene}
        while sum(sizes.values()) > self._room:
            free = [key for key in sizes if key not in self._wanted and not self.moments.taken[key].name]
            free = [key for key in free if key not in (self.last, target)]
            between = [key for key in free if not self.moments.taken[key].change]
            if not free:
                return
            key = self._most_crowded(between, list(sizes)) if between else free[0]
            with suppress(OSError):
                (self.folder / f"{key}.pt").unlink(missing_ok=True)
            self.moments.taken[key] = replace(self.moments.taken[key], scene=False)
            del sizes[key]

    def _most_crowded(self, keys: list[str], all_keys: list[str]) -> str:
        steps = {key: self.moments.taken[key].step for key in all_keys}

        def room_around(key: str) -> int:
            place = all_keys.index(key)
            before = steps[all_keys[place - 1]] if place else -(1 << 40)  # the first one is worth keeping
            after = steps[all_keys[place + 1]] if place + 1 < len(all_keys) else steps[key]
            return after - before

        return min(keys, key=room_around)

    def _size(self, key: str) -> int:
        path = self.folder / f"{key}.pt"
        return path.stat().st_size if path.exists() else 0

    def _write(self) -> None:
        if distributed.rank() == 0:
            self.moments.write(self.folder)
