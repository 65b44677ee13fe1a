"""`pds studio`: still lifes in real light, whose right answer is known; packaged, or rendered by Mitsuba.

--capture NAME ─► OUT/source, OUT/EDIT/target, OUT/EDIT/edit.json       photographs that come with the package
EDIT           ─► OUT/source, OUT/target, OUT/edit.json                 rendered here, as `pds toybox` writes them
--caption "…"  ─► OUT/source                                            rendered here
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import holds_only, require_writable
from pds_nerfstudio.next_steps import reconstructing, say_next, step
from pds_nerfstudio.prompts import unknown_words
from pds_nerfstudio.ranges import Seed, check_ranges
from pds_nerfstudio.studio.photography import Photography
from pds_nerfstudio.text import printable

ROOM = 64 << 20
"""Bytes that a scene takes at least."""
NOT_SAID = "what it should show"
"""In place of the prompt of an edit that is not chosen yet."""
Threads = Annotated[int, Ge(0), Le(1024)]


@dataclass
class Studio:
    """Make a still life to edit and, from the same cameras, what it should become; without arguments, list them."""

    edit: tyro.conf.Positional[str] = ""
    """Name of the edit to render, such as vase-flower. This needs Mitsuba: the extra [studio]."""
    capture: str = ""
    """Write the photographs of this name that come with the package, such as vase, with the answers of all their
    edits. This needs no renderer."""
    caption: str = ""
    """Render the scene of this caption, such as "a photo of a marble vase on a table by a window in sunlight"."""
    out: Path | None = None
    """Folder to write to; by default outputs/studio/NAME."""
    how: Annotated[Photography, tyro.conf.arg(name="")] = field(default_factory=Photography)
    piece: Seed = 0
    """Which piece of wood or marble the object of --caption is cut from, and how it is turned."""
    threads: Threads = 0
    """Threads that render; 0 takes as many as there are cores."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if sum(map(bool, (self.edit, self.capture, self.caption))) > 1:
            raise UserError("Give one of EDIT, --capture and --caption.")
        if self.capture and (self.how, self.piece, self.threads) != (Photography(), 0, 0):
            raise UserError(
                "--capture writes photographs as they come with the package: render a scene (EDIT or --caption) to "
                "choose their size, number or seed."
            )
        if self.edit and self.piece:
            raise UserError("--piece is for --caption: an edit says which piece its object is cut from.")

    def run(self) -> None:
        """Write the scene, or list captures and edits."""
        console = Console(soft_wrap=True, highlight=False, markup=False)
        if self.capture:
            self._copy(console)
        elif self.edit or self.caption:
            self._render(console)
        else:
            _list(console)

    def _copy(self, console: Console) -> None:
        from pds_nerfstudio.studio.captures import copy_capture, files_of
        from pds_nerfstudio.studio.spec import find_still

        try:
            still = find_still(self.capture)
        except ValueError as error:
            raise UserError(str(error)) from error
        out = self.out or Path("outputs") / "studio" / still.name
        require_writable(out, room=4 << 20)
        if not holds_only(out, files_of(still)):
            raise UserError(f"{out} holds what is not of this capture: give a folder that is new with --out.")
        copy_capture(still, out)
        edit = still.edits[0]
        _say_written(console, out, edit.source_prompt, edit.target_prompt)

    def _render(self, console: Console) -> None:
        from pds_nerfstudio.studio import mitsuba
        from pds_nerfstudio.studio.dataset import write_edit, write_scene
        from pds_nerfstudio.studio.render import load_denoiser
        from pds_nerfstudio.studio.spec import find_edit, read_caption
        from pds_nerfstudio.toybox.dataset import require_folder_of

        try:
            edit = find_edit(self.edit) if self.edit else None
            scene = edit.source if edit else replace(read_caption(self.caption), seed=self.piece)
        except ValueError as error:
            raise UserError(str(error)) from error
        name = self.edit or self.caption.removeprefix("a photo of a ").replace(" ", "-")
        out = self.out or Path("outputs") / "studio" / name
        require_writable(out, room=ROOM)
        if edit:
            require_folder_of(edit.name, out)
        if self.how.denoise:
            load_denoiser()
        console.print(f"{mitsuba.described()}. Pictures that are there already are kept.")

        def say(line: str) -> None:
            console.print(printable(line))

        if edit:
            write_edit(edit, out, self.how, say, self.threads)
            _say_written(console, out, edit.source_prompt, edit.target_prompt)
        else:
            write_scene(scene, out / "source", self.how, say, self.threads)
            _say_written(console, out, scene.prompt(room=False, light=False), NOT_SAID)


def _say_written(console: Console, out: Path, source: str, target: str) -> None:
    from pds_nerfstudio.studio.captures import RECONSTRUCTION

    console.print(f"{printable(out)}: “{source}” → “{target}”")
    said = [prompt for prompt in (source, target) if prompt != NOT_SAID]
    if stranger := unknown_words("studio", *said):
        console.print(stranger, style="yellow")
    prior = "ANOTHER" if stranger else "studio"
    edit_it = ("pds", "edit", "outputs/latest", "--from", source, "--to", target, "--prior", prior)
    bounds = {name.replace("_", "-"): value for name, value in RECONSTRUCTION.items()}
    flags = [word for name, value in bounds.items() for word in (f"--{name}", value)]
    line = reconstructing(out, (*flags, "--viewer.quit-on-train-completion", True))
    say_next(console, [line, step("and edit that", *edit_it)])


def _list(console: Console) -> None:
    from pds_nerfstudio.studio.captures import packaged
    from pds_nerfstudio.studio.spec import STILLS

    here = packaged()
    for still in STILLS:
        where = "in the package" if still in here else "to be rendered"
        console.print(f"{still.name} ({where}): “{still.source.prompt()}”")
        for edit in still.edits:
            console.print(f"  {edit.name:16}  {edit.kind:10}  “{edit.target_prompt}”")
    first = [step("write a capture of the package", "pds", "studio", "--capture", here[0].name)] if here else []
    say_next(console, [*first, step("render an edit's two scenes", "pds", "studio", STILLS[0].edits[0].name)])
