"""Draw edits of studio's captures: one held-out view before, after, and as it should be, several edits to a row.

pds bench --suite suites/studio.yaml --methods pnr-edit pnr-edit+sdedit-refine
python data_scripts/draw_studio_edits.py --bench outputs/bench/studio/splatfacto --out docs/figures/studio_edits.jpg
"""

from pathlib import Path

import torch
import tyro
from draw_wall import last_run
from PIL import Image, ImageDraw

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.cells import as_file_name
from pds_nerfstudio.evaluation.trial import render_eval_views
from pds_nerfstudio.pictures import Image3, read_images
from pds_nerfstudio.studio.spec import EDITS, StudioEdit, find_edit, still_of

GAP, LINE = 12, 22
"""Pixels between edits, and of their names."""


def runs_of(edit: StudioEdit, bench: Path, method: str, seed: int) -> tuple[Path, Path]:
    """The `config.yml` of the reconstruction that an edit began with, and of the edit."""
    cell = bench / "cells" / f"{edit.name}.{as_file_name(method)}.{seed}"
    return last_run([scenes_of(edit, bench, seed) / "runs"]), last_run([cell])


def scenes_of(edit: StudioEdit, bench: Path, seed: int) -> Path:
    """What the edits of a capture share."""
    return bench / "scenes" / f"{still_of(edit).name}.{seed}"


def pictures_of(edit: StudioEdit, bench: Path, method: str, seed: int, view: int) -> list[Image3]:
    """Before, after, and as it should be."""
    before, after = (render_eval_views(load_run(run))[view] for run in runs_of(edit, bench, method, seed))
    targets = sorted((scenes_of(edit, bench, seed) / "scene" / edit.name / "target" / "images").glob("test_*.jpg"))
    return [before, after, read_images([targets[view]])[0]]


def main(
    bench: Path,
    out: Path,
    edits: tuple[str, ...] = tuple(edit.name for edit in EDITS),
    method: str = "pnr-edit+sdedit-refine",
    view: int = 0,
    seed: int = 0,
    columns: int = 2,
    tile: int = 256,
) -> None:
    """Draw.

    Args:
        bench: the folder of the suite and family, as `pds bench` leaves it.
        out: a picture.
        edits: which, in this order.
        method: by which they were made.
        view: which held-out view.
        seed: of the cells.
        columns: edits beside each other.
        tile: width of each picture in pixels.
    """
    width, height = 3 * tile, tile + LINE
    rows = -(-len(edits) // columns)
    sheet = Image.new("RGB", (columns * width + (columns - 1) * GAP, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(edits):
        edit = find_edit(name)
        left, top = i % columns * (width + GAP), i // columns * height
        words = f"{edit.source_prompt} to {edit.target_prompt}".replace("a photo of ", "")
        pen.text((left + 4, top + 3), words, "black", font_size=13)
        for x, image in enumerate(pictures_of(edit, bench, method, seed, view)):
            pixels = (255 * image.movedim(0, -1).clamp(0, 1)).round().to(torch.uint8).numpy()
            picture = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + x * tile, top + LINE))
    sheet.save(out, quality=88)
    print(out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
