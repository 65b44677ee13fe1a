"""The picture of docs/choice.md: what to change, by which method, preset and command.

    python data_scripts/draw_choice.py

What a preset does is read from the recipes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from svg_boxes import LINE, arrow, box, picture, text, wrapped

from pds_nerfstudio.priors.recipe import COMMON, read_recipe
from pds_nerfstudio.prompts import Ask

OUT = Path(__file__).parents[1] / "docs/figures/choice.svg"
WIDTH, GAP, TOP = 216, 14, 70
CHARACTERS, CODE_CHARACTERS = 31, 26
"""How many fit a line of a column."""


@dataclass(frozen=True)
class Column:
    """One kind of change."""

    title: str
    prompts: tuple[str, str]
    ask: Ask | None
    """The preset; None where none is needed."""
    command: str
    before: str = ""
    """What is done first."""

    def does(self) -> str:
        """What `pnr-edit` does by this preset, with a prior that has no recipe of its own."""
        found = read_recipe(COMMON).settings("pnr-edit", "splatfacto", self.ask)
        perturbs = found.get("pipeline.eta") != 0.0
        held = found.get("pipeline.change") == "relevant"
        moved = "perturbs what the prompts ask to change" if perturbs else "perturbs nothing"
        return f"{moved}; {'the rest is frozen' if held else 'all of the scene may change'}"


COLUMNS = (
    Column("A colour", ("a red ball", "a blue ball"), "colour", "--recipe colour"),
    Column("An addition", ("a man", "a man wearing a hat"), "addition", "--recipe addition"),
    Column("A shape", ("a man", "a man raising his arms"), "shape", "--recipe shape"),
    Column("A style", ("a photo of a man", "an oil painting of a man"), "style", "--recipe style"),
    Column(
        "A particular subject, which must stay itself",
        ("a sks man", "a sks man raising his arms"),
        None,
        '--class-prompt "a man"',
        "teaches the prior the subject by pds dreambooth",
    ),
)


def draw() -> str:
    """The picture, as a file's content."""
    assert {column.ask for column in COLUMNS if column.ask} <= set(get_args(Ask))
    total = len(COLUMNS) * (WIDTH + GAP) + GAP
    parts = [box(total / 2 - 150, 12, 300, 36, "#dfe5f5"), text(total / 2, 35, "What should change?", 16, bold=True)]
    for number, column in enumerate(COLUMNS):
        x = GAP + number * (WIDTH + GAP)
        parts += [arrow(total / 2, 48, x + WIDTH / 2, TOP + 8), *_column(column, x, TOP + 10)]
    y = TOP + 462
    parts += [box(GAP, y, total - 2 * GAP, 62, "#e6f3ea", "#78a587")]
    parts += [text(total / 2, y + 25, "pds edit then refines the scene (sdedit-refine), films it and measures it", 14)]
    parts += [text(total / 2, y + 47, "An object alone, with a prior that knows its cameras: --recipe object", 13)]
    return picture(total, y + 76, "Which method for what", parts)


def _column(column: Column, x: float, y: float) -> list[str]:
    middle = x + WIDTH / 2
    parts = [box(x, y, WIDTH, 64, "#dfe5f5")]
    title = wrapped(column.title, 26)
    parts += _lines(title, middle, y + 38 - 9 * (len(title) - 1), 15, bold=True)
    parts += [arrow(middle, y + 64, middle, y + 82), box(x, y + 84, WIDTH, 76, "#ffffff")]
    parts += _lines([f"“{column.prompts[0]}”", "→", f"“{column.prompts[1]}”"], middle, y + 106)
    parts += [arrow(middle, y + 160, middle, y + 178), box(x, y + 180, WIDTH, 134)]
    parts += [text(middle, y + 206, "pnr-edit", 15, mono=True, bold=True)]
    said = [*wrapped(column.before + ";" * bool(column.before), CHARACTERS), *wrapped(column.does(), CHARACTERS)]
    parts += _lines(said, middle, y + 228)
    parts += [arrow(middle, y + 314, middle, y + 332), box(x, y + 334, WIDTH, 100, "#f7f3e8", "#b8a878")]
    line = ["pds edit RUN", '--from "…" --to "…"', *wrapped(column.command, CODE_CHARACTERS)]
    return parts + _lines(line, middle, y + 370, 12, mono=True)


def _lines(lines: list[str], x: float, y: float, size: int = 13, mono: bool = False, bold: bool = False) -> list[str]:
    return [text(x, y + LINE * number, line, size, mono, bold) for number, line in enumerate(lines)]


if __name__ == "__main__":
    OUT.write_text(draw(), encoding="utf8")
    print(OUT)
