"""`pds toybox`: scenes to try everything on, whose right answer is known; no photographs, no network, no GPU.

EDIT ─► OUT/source, OUT/target (nerfstudio datasets from the same cameras), OUT/edit.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_writable
from pds_nerfstudio.next_steps import reconstructing, say_next, step
from pds_nerfstudio.ranges import Pixels, Seed, check_ranges
from pds_nerfstudio.text import printable

ROOM = 4 << 20
"""Bytes that a scene takes at least."""
RECONSTRUCTION = (
    *("--max-num-iterations", 600),
    *("--pipeline.model.num-downscales", 0, "--pipeline.model.background-color", "white"),
    *("--viewer.quit-on-train-completion", True),
)
"""What `ns-train source-splatfacto` needs for pictures of 64 pixels on white. Splatfacto's own schedule shows a quarter
of their height and width for so few steps, and its background is drawn at random. It ends by itself, so that the next
line can be typed."""
Count = Annotated[int, Ge(1), Le(100_000)]


@dataclass
class Toybox:
    """Make a toybox scene to edit, and what it should become, seen from the same cameras. Without EDIT, list the
    edits."""

    edit: tyro.conf.Positional[str] = ""
    """Name of the edit, such as raise-arms."""
    out: Path | None = None
    """Folder to write to; by default outputs/toybox/EDIT."""
    size: Pixels = 64
    """Height and width of the images in pixels; toybox's prior was taught at 64."""
    train_views: Count = 40
    """Views to reconstruct from."""
    test_views: Count = 8
    """Views to measure on, which are held out."""
    num_points: Count = 3000
    """Points of the sparse cloud."""
    seed: Seed = 0
    """Seed of the cameras' places."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Write the scene, or list the edits."""
        from pds_nerfstudio.toybox.spec import EDITS, find_edit

        console = Console(soft_wrap=True, highlight=False, markup=False)
        if not self.edit:
            width = max(len(edit.name) for edit in EDITS)
            for edit in EDITS:
                console.print(f"{edit.name:{width}}  {edit.kind:10}  “{edit.source_prompt}” → “{edit.target_prompt}”")
            kinds = {edit.kind: edit for edit in reversed(EDITS)}  # the first of each
            say_next(console, [step(kind, "pds", "toybox", edit.name) for kind, edit in reversed(kinds.items())])
            return
        try:
            found = find_edit(self.edit)
        except ValueError as error:
            raise UserError(str(error)) from error
        out = self.out or Path("outputs") / "toybox" / found.name
        require_writable(out, room=ROOM)
        from pds_nerfstudio.toybox.dataset import require_folder_of, write_edit

        names = ("size", "train_views", "test_views", "num_points", "seed")
        settings = {name: getattr(self, name) for name in names}
        require_folder_of(found.name, out, settings)
        write_edit(found, out, **settings)
        console.print(f"{printable(out)}: “{found.source_prompt}” → “{found.target_prompt}”")
        prompts = ("--from", found.source_prompt, "--to", found.target_prompt, "--prior", "toybox")
        edit_it = ("pds", "edit", "outputs/latest", *prompts)
        say_next(console, [reconstructing(out, RECONSTRUCTION), step("and edit that", *edit_it)])
