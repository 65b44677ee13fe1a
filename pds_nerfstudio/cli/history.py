"""`pds history`: how an edit went, as a sheet and a film of the moments that its run has kept.

RUN/history/history.json, *.jpg ─► OUT/sheet.png   a row for each moment: what was changed then, and its views
                               ─► OUT/film.mp4    one view from the first step to the last, beside the source
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_writable
from pds_nerfstudio.moments import FOLDER, INDEX, SOURCE, Moment, Moments, read_moments
from pds_nerfstudio.next_steps import after_edit, say_next
from pds_nerfstudio.ranges import check_ranges
from pds_nerfstudio.runs import Run, find_config, read_run
from pds_nerfstudio.text import printable

if TYPE_CHECKING:
    from pds_nerfstudio.pictures import Image3

SHEET, FILM = "sheet.png", "film.mp4"
ROOM = 4 << 20
"""Bytes that both take at least."""
FRAMES_PER_SECOND = 20
LINES = 3
"""Of text below the film."""


@dataclass
class History:
    """Show how an edit went, as a sheet and a film of its saved moments.

    Moments are saved at intervals and before every change that is made in the viewer. This works while the edit still
    runs, too. To go back to a moment, open the edit in the viewer.
    """

    run_folder: tyro.conf.Positional[Path]
    """The edited run: its folder, or `outputs/latest`."""
    out: Path | None = None
    """Folder to write to; by default `history` in the run's own."""
    rows: Annotated[int, Ge(1), Le(1000)] = 12
    """The most moments that the sheet shows: those before changes and those with names, and an even choice of the
    others."""
    seconds: Annotated[float, Ge(0.05), Le(60)] = 0.5
    """How long the film shows each moment, in seconds."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Read what is there, and draw it."""
        run = read_run(find_config(self.run_folder, "RUN"))
        moments = read_moments(run.folder / FOLDER)
        shown = [moment for moment in moments.taken.values() if _picture(run, moment.key).is_file()]
        if not shown:
            raise UserError(
                f"{run.folder} has no pictures of how it went ({FOLDER}/{INDEX}): edits keep them unless --history "
                "nothing is given, from their first step on."
            )
        keys = [*([SOURCE] if _picture(run, SOURCE).is_file() else []), *(moment.key for moment in shown)]
        _require_one_size([_picture(run, key) for key in keys], moments.views)
        out = self.out or run.folder / FOLDER
        require_writable(out, room=ROOM)
        console = Console(soft_wrap=True, highlight=False, markup=False)
        self._draw_sheet(run, moments, shown, out / SHEET)
        console.print(f"{len(shown)} moments: {printable(out / SHEET)}")
        self._film(run, moments, shown, out / FILM)
        console.print(f"The film: {printable(out / FILM)}")
        say_next(console, after_edit(run.folder))

    def _draw_sheet(self, run: Run, moments: Moments, shown: list[Moment], path: Path) -> None:
        from pds_nerfstudio.pictures import contact_sheet

        rows = {"the source": _views(run, SOURCE, moments.views)} if _picture(run, SOURCE).is_file() else {}
        for moment in chosen(shown, self.rows):
            label = moment.title if moment.title not in rows else f"{moment.title} ({moment.key})"
            rows[label] = _views(run, moment.key, moments.views)
        source, target = run.prompts
        contact_sheet(rows, path, f"{source or 'no source prompt'}   to   {target}")

    def _film(self, run: Run, moments: Moments, shown: list[Moment], path: Path) -> None:
        from pds_nerfstudio.pictures import side_by_side, video

        first = SOURCE if _picture(run, SOURCE).is_file() else shown[0].key
        before, after = _views(run, first, moments.views)[0], run.prompts[1]
        with video(path, FRAMES_PER_SECOND) as show:
            for moment in shown:
                wanted = moment.settings.get("prompts", ["", after])[1]
                now = _views(run, moment.key, moments.views)[0]
                frame = side_by_side([before, now], ("the source", f"{moment.title} · {wanted}"), LINES)
                for _ in range(max(1, round(self.seconds * FRAMES_PER_SECOND))):
                    show(frame)


def chosen(moments: list[Moment], count: int) -> list[Moment]:
    """At most `count` of them, in their order: first those before changes and with names, then evenly many others."""
    marked = [moment for moment in moments if moment.change or moment.name][-count:]
    others = [moment for moment in moments if not (moment.change or moment.name)]
    room = min(count - len(marked), len(others))
    kept = {moment.key for moment in marked}
    kept |= {others[i * (len(others) - 1) // max(room - 1, 1)].key for i in range(room)}
    return [moment for moment in moments if moment.key in kept]


def _picture(run: Run, key: str) -> Path:
    return run.folder / FOLDER / f"{key}.jpg"


def _require_one_size(paths: list[Path], views: int) -> None:
    """Raise UserError for a picture that cannot be read, or is of another size than the first: of so many views."""
    from PIL import Image

    from pds_nerfstudio.pictures import UNREADABLE

    sizes = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                sizes.append(picture.size)
        except UNREADABLE as error:
            raise UserError(f"The picture {path} cannot be read ({error}): remove it.") from error
        if sizes[-1] != sizes[0] or sizes[-1][0] % views:
            raise UserError(f"The picture {path} is not of {views} views like the others: remove it.")


def _views(run: Run, key: str, count: int) -> "list[Image3]":
    """The views that a moment's picture shows beside each other."""
    from pds_nerfstudio.pictures import UNREADABLE, read_images

    try:
        (strip,) = read_images([_picture(run, key)])
    except UNREADABLE as error:
        raise UserError(f"The picture {_picture(run, key)} cannot be read ({error}): remove it.") from error
    return list(strip.chunk(count, dim=-1))
