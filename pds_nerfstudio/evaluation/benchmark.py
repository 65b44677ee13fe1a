"""What is edited in cells, and how an edit is judged.

`trial.Toy`, `studio_trial.Stills`, `capture.Capture` and `image_trial.ImageTrial` are the benchmarks' kinds,
`gallery.OwnRun` is a user's run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pds_nerfstudio.evaluation.rows import ANCHORS, of_family
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pictures import save_image

SHEET, VIEW, SHOWN = "sheet.png", "view.png", 0
"""A cell's sheet, its picture in the wall, and which held-out view that is."""


class Edit(Protocol):
    """What is asked for."""

    @property
    def name(self) -> str:
        """Part of files' names, and unique among the edits that are run together."""
        ...

    @property
    def kind(self) -> str: ...

    @property
    def source_prompt(self) -> str: ...

    @property
    def target_prompt(self) -> str: ...


@dataclass(frozen=True)
class Benchmark:
    """What is edited, by what settings, and what the result is held against. A scene is a file to begin with."""

    family: Any
    """What scenes are; "2d" where there are none."""
    settings: Any
    """A dataclass, kept in the records."""
    anchors: ClassVar = ANCHORS
    """Those that have a meaning for it."""

    def check(self, edits: Sequence[Any]) -> None:
        """Raise a UserError if the edits cannot be run together."""

    def methods(self, first: bool) -> list[str]:
        """What can be the first link of a row, or a later one, without -splat; a refinement has to come after."""
        endings = tuple(of_family(kind, self.family) for kind in (("-edit",) if first else ("-edit", "-refine")))
        return [name.removesuffix("-splat") for name in METHODS if name.endswith(endings)]

    def shared(self, edit: Any, seed: int) -> str:
        """The name of the folder that `prepare` fills: edits of one name there begin with one scene."""
        return f"{edit.name}.{seed}"

    def made_of(self, edit: Any, seed: int) -> dict[str, Any]:
        """What the scene in that folder depends on, in JSON's types: one made of anything else is another scene."""
        return {"family": self.family, "seed": seed, "reconstruction_steps": self.settings.reconstruction_steps}

    def describe(self, edit: Any) -> dict[str, Any]:
        """What a record says of an edit; a record that says something else is of another edit."""
        return {"scene": edit.source_prompt, "edit": edit.name, "kind": edit.kind}

    def prepare(self, edit: Any, folder: Path, seed: int) -> Path:
        """Make what all rows of an edit share in `folder`; the scene that they begin with."""
        raise NotImplementedError

    def ceiling(self, scenes: Path, out: Path, seed: int) -> Path:
        """The best that an edit could come to, in `out`, from what `prepare` left in `scenes`."""
        raise NotImplementedError

    def truth(self, edit: Any, scenes: Path) -> Path | None:
        """The photograph of what an edit should become, from the view that is `SHOWN`, where there is one."""
        return None

    def known(self, edit: Any, scenes: Path, source: Path, strength: float, seed: int) -> Any:
        """What the prior makes of the true pictures, judged as an edit is."""
        raise NotImplementedError

    def edit(self, method: str, changes: Mapping[str, Any], source: Path, edit: Any, out: Path, seed: int) -> Path:
        """What a method makes of a scene, in `out`."""
        raise NotImplementedError

    def compare(self, edit: Any, scenes: Path, source: Path, edited: Path) -> Any:
        """The edit, judged: its `numbers`, the `edited` views, and a `sheet` to draw."""
        raise NotImplementedError

    def keep(self, comparison: Any, folder: Path) -> None:
        """Put what is to be looked at into a cell's folder."""
        comparison.sheet(folder / SHEET)
        save_image(comparison.edited[SHOWN], folder / VIEW)
