"""Draw a wall of toybox edits: one held-out view of each, splats larger than the photographs that were measured.

pds bench --suite suites/dev.yaml --methods pnr-edit pnr-edit+sdedit-refine
python data_scripts/draw_wall.py --bench outputs/bench/dev/splatfacto --out docs/figures/dev_views_wall.png
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

from pds_nerfstudio.evaluation.cells import as_file_name
from pds_nerfstudio.evaluation.suite import read_suite
from pds_nerfstudio.evaluation.trial import to_look_at
from pds_nerfstudio.pictures import contact_sheet


def last_run(folders: Iterable[Path]) -> Path:
    """The `config.yml` of the run that was made last in these folders."""
    return max(
        (path for folder in folders for path in folder.rglob("config.yml")), key=lambda path: path.stat().st_mtime
    )


def main(
    bench: Path,
    out: Path,
    suite: Path = Path("suites/dev.yaml"),
    methods: tuple[str, ...] = ("pnr-edit", "pnr-edit+sdedit-refine"),
    views: tuple[int, ...] = (0,),
    seed: int = 0,
    tile: int = 96,
) -> None:
    """Draw.

    Args:
        bench: the folder of a suite and family, as `pds bench` leaves it.
        out: a picture.
        suite: whose edits are drawn, in its order, as far as all methods have made them.
        methods: a row for each, between the source and the truth.
        views: which held-out views.
        seed: of the cells.
        tile: width of each picture in pixels.
    """
    edits: list[Any] = read_suite(suite).edits
    files = {method: as_file_name(method) for method in methods}
    rows: dict[str, list] = {"source": [], **{method: [] for method in methods}, "ground truth": []}
    columns = []
    for edit in edits:
        cells = {method: bench / "cells" / f"{edit.name}.{file}.{seed}" for method, file in files.items()}
        if not all((cell / "record.json").is_file() for cell in cells.values()):
            continue
        shared = bench / "scenes" / f"{edit.name}.{seed}"
        scene, source = next(shared.rglob("edit.json")).parent, last_run([shared])
        for method, cell in cells.items():
            before, after, truth = to_look_at(edit, scene, source, last_run([cell]), views)
            rows[method] += list(after)
        rows["source"] += list(before)
        rows["ground truth"] += list(truth)
        columns += [edit.name, *[""] * (len(views) - 1)]
    named = {method.partition("[")[0].replace("+", " + "): pictures for method, pictures in rows.items()}
    contact_sheet(named, out, "Held-out views of each edit", tile, columns)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
