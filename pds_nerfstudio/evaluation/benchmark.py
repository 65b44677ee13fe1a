"""What kinds of benchmark have in common: `trial.Toy`, `capture.Capture` and `image_trial.ImageTrial` fill it in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pds_nerfstudio.evaluation.rows import ANCHORS, of_family
from pds_nerfstudio.methods import METHODS


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

    def prepare(self, edit: Any, folder: Path, seed: int) -> Path:
        """Make what all rows of an edit share in `folder`; the scene that they begin with."""
        raise NotImplementedError

    def ceiling(self, scenes: Path, out: Path, seed: int) -> Path:
        """The best that an edit could come to, in `out`, from what `prepare` left in `scenes`."""
        raise NotImplementedError

    def known(self, edit: Any, scenes: Path, source: Path, strength: float, seed: int) -> Any:
        """What the prior makes of the true pictures, judged as an edit is."""
        raise NotImplementedError

    def edit(self, method: str, changes: Mapping[str, Any], source: Path, edit: Any, out: Path, seed: int) -> Path:
        """What a method makes of a scene, in `out`."""
        raise NotImplementedError

    def compare(self, edit: Any, scenes: Path, source: Path, edited: Path) -> Any:
        """The edit, judged: its `numbers`, the `edited` views, and a `sheet` to draw."""
        raise NotImplementedError
