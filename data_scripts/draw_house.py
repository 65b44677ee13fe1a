"""The picture of docs/architecture.md: which room of the package imports which, drawn from the imports.

    python data_scripts/draw_house.py

An arrow is an import that no chain of other arrows implies; those that one does are named in the room.
"""

from functools import cache
from pathlib import Path

import grimp
from svg_boxes import arrow, box, picture, text, wrapped

OUT = Path(__file__).parents[1] / "docs/figures/house.svg"
PACKAGE = "pds_nerfstudio"
SHARED = "shared files"
LIBRARIES = ("diffusers", "transformers", "peft", "nerfstudio", "gsplat")
"""What a room is told apart by."""
WIDTH, HEIGHT = 250, 92
ROOMS: dict[str, tuple[float, float, str]] = {
    "cli": (425, 20, "the pds command"),
    "evaluation": (425, 150, "measures edits; toybox trials, reports"),
    "methods": (425, 280, "what ns-train NAME runs"),
    "pipelines": (425, 410, "where a prior meets a scene"),
    "vector": (20, 540, "SVG files as tensors"),
    "priors": (290, 540, "diffusion models, by family"),
    "scenes": (560, 540, "NeRFs and splats behind one interface"),
    "toybox": (830, 540, "scenes whose right answer is known"),
    "studio": (830, 280, "the same in real light, by Mitsuba"),
    "objectives": (425, 670, "the mathematics: SDS, DDS, PDS, …"),
}
"""Where a room stands, and what it is for."""
Edges = set[tuple[str, str]]


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(PACKAGE, include_external_packages=True, cache_dir=None)


def room_of(module: str) -> str:
    """The room that a module of the package belongs to."""
    part = [*module.split("."), ""][1]
    return part if part in ROOMS else SHARED


def edges() -> Edges:
    """Which room imports which, the shared files among them."""
    found = set()
    for module in _own():
        found |= {(room_of(module), room_of(other)) for other in _imported(module) if other.startswith(PACKAGE)}
    return {(one, other) for one, other in found if one != other}


def libraries(room: str) -> list[str]:
    """Which of `LIBRARIES` a room imports."""
    found = {other for module in _own() if room_of(module) == room for other in _imported(module)}
    return [name for name in LIBRARIES if name in found]


def needed(between: Edges) -> Edges:
    """The edges that no chain of others implies."""

    def reaches(one: str, other: str, skipped: tuple[str, str]) -> bool:
        following = [b for a, b in between if a == one and (a, b) != skipped]
        return other in following or any(reaches(b, other, skipped) for b in following)

    return {edge for edge in between if not reaches(*edge, edge)}


def draw() -> str:
    """The picture, as a file's content."""
    between = {edge for edge in edges() if SHARED not in edge}
    arrows = needed(between)
    parts = []
    for one, other in sorted(arrows):
        (x0, y0, _), (x1, y1, _) = ROOMS[one], ROOMS[other]
        beside = y1 - y0 > 200  # past a room that stands between the two
        begin = (x0 + WIDTH, y0 + HEIGHT / 2) if beside else (x0 + WIDTH / 2, y0 + HEIGHT)
        line = arrow(*begin, x1 + WIDTH / 2, y1 - 2)
        parts.append(f'<g data-from="{one}" data-to="{other}">{line}</g>')
    for room, (x, y, purpose) in ROOMS.items():
        parts += [box(x, y, WIDTH, HEIGHT), text(x + WIDTH / 2, y + 22, room, 15, mono=True, bold=True)]
        parts.append(text(x + WIDTH / 2, y + 40, purpose, 12))
        imported = ", ".join(libraries(room)) or "no library of models or scenes"
        also = sorted(other for one, other in between - arrows if one == room)
        parts.append(text(x + WIDTH / 2, y + 57, imported, 11, mono=True))
        for number, line in enumerate(wrapped("also " + ", ".join(also), 42) if also else []):
            parts.append(text(x + WIDTH / 2, y + 72 + 13 * number, line, 11))
        parts.append(f'<g data-from="{room}" data-to="{" ".join(also)}"/>')
    return picture(1100, 880, "Which room imports which", parts + _shared())


def _shared() -> list[str]:
    """The bar of files beside the rooms, which all of them use, and what those use in turn."""
    upwards = sorted(
        {
            (module.split(".")[1], room_of(other))
            for module in _own()
            if room_of(module) == SHARED
            for other in _imported(module)
            if other.startswith(PACKAGE) and room_of(other) != SHARED
        }
    )
    rooms = sorted({room for _, room in upwards})
    said = "; ".join(f"{name}.py uses {room}" for name, room in upwards)
    parts = [box(20, 800, 1060, 64, "#f7f3e8", "#b8a878")]
    what = "files beside the rooms: images, files, errors, ranges, text, runs, …; every room uses them"
    parts.append(text(550, 824, what, 13))
    parts.append(text(550, 846, said, 12))
    parts.append(f'<g data-from="{SHARED}" data-to="{" ".join(rooms)}"/>')
    return parts


def _own() -> list[str]:
    return [module for module in sorted(_graph().modules) if module.split(".")[0] == PACKAGE]


def _imported(module: str) -> set[str]:
    return _graph().find_modules_directly_imported_by(module)


if __name__ == "__main__":
    OUT.write_text(draw(), encoding="utf8")
    print(OUT)
