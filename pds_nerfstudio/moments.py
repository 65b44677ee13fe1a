"""The moments that an edit's history keeps, as its files have them; read without torch or nerfstudio.

RUN/history/history.json      the moments in their order, and what can be undone and redone
RUN/history/120.jpg, 120.pt    training views before step 120; the scene and everything that trains it
RUN/history/120.1.jpg, …       the same, before the first change that was made before that step
"""

import itertools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import read_json, write_whole

FOLDER = "history"
"""Where a run keeps its moments."""
INDEX = "history.json"
SOURCE = "source"
"""The key of the scene before the edit, which is no moment: its picture lies beside theirs."""


@dataclass(frozen=True)
class Moment:
    """The edit before one of its steps."""

    key: str
    """When it was taken, and the name of its files: "120" before step 120, "120.1" before the first change there."""
    step: int
    settings: dict[str, Any]
    """Prompts, guidance and what else can change, see `steering.begin_of`."""
    change: str = ""
    """The change that it was taken before; empty where there was none."""
    words: str = ""
    """That change in words."""
    name: str = ""
    """What the user calls it."""
    scene: bool = False
    """Whether its scene is kept, so that one can go back to it."""

    @property
    def title(self) -> str:
        """What a list shows."""
        if self.name:
            return f"{self.name} (step {self.step})"
        return f"step {self.step}, before: {self.words}" if self.words else f"step {self.step}"


@dataclass
class Moments:
    """All moments of an edit, the earliest first."""

    taken: dict[str, Moment] = field(default_factory=dict)
    """By key."""
    undo: list[str] = field(default_factory=list)
    """Keys of the moments before the changes that can be undone; the last one comes first."""
    redo: list[str] = field(default_factory=list)
    """Keys of those before what was undone."""
    views: int = 1
    """How many views a picture shows beside each other, all of one size."""

    def until(self, step: int, number: int | None = None) -> "Moments":
        """Those before a step, or the first so many: an edit that goes on there takes the others again."""
        first = {key: moment for key, moment in self.taken.items() if moment.step < step}
        taken = first if number is None else dict(itertools.islice(self.taken.items(), number))
        undo, redo = ([key for key in keys if key in taken] for keys in (self.undo, self.redo))
        return Moments(taken, undo, redo, self.views)

    def write(self, folder: Path) -> None:
        """Replace the list in `folder`."""
        moments = [asdict(moment) for moment in self.taken.values()]
        content = {"views": self.views, "moments": moments, "undo": self.undo, "redo": self.redo}
        write_whole(folder / INDEX, json.dumps(content, indent=1) + "\n")


def read_moments(folder: Path) -> Moments:
    """Those of a run's history folder; none where there is no list.

    Raises:
        UserError: the list is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return Moments()
    remedy = "remove it to go on without its history"
    content = read_json(path, dict, "The history", remedy)
    try:
        taken = {str(values["key"]): Moment(**values) for values in content["moments"]}
        views = content["views"]
        if not (type(views) is int and views > 0 and all(_is_sound(moment) for moment in taken.values())):
            raise ValueError("a moment has a key, a step and settings")
        undo, redo = ([key for key in map(str, content[name]) if key in taken] for name in ("undo", "redo"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The history {path} is damaged ({error}): {remedy}.") from error
    return Moments(taken, undo, redo, views)


def _is_sound(moment: Moment) -> bool:
    """Whether a key can be no other file's name, and what is read of a moment is there."""
    texts = (moment.key, moment.change, moment.words, moment.name)
    settings: Any = moment.settings
    prompts = settings.get("prompts", ["", ""]) if isinstance(settings, dict) else None
    return (
        isinstance(prompts, list)
        and len(prompts) == 2
        and all(isinstance(prompt, str) for prompt in prompts)
        and all(isinstance(text, str) for text in texts)
        and moment.key.replace(".", "", 1).isdigit()
        and type(moment.step) is int
        and type(moment.scene) is bool
    )
