"""Draw a wall of toybox edits of splats: one held-out view of each, larger than the photographs that were measured.

pds bench --suite suites/dev.yaml --methods pnr-edit pnr-edit+sdedit-refine
python data_scripts/draw_wall.py --bench outputs/bench/dev/splatfacto --out docs/figures/dev_views_wall.png
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

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
    view: int = 0,
    seed: int = 0,
) -> None:
    """Draw.

    Args:
        bench: the folder of a suite and family, as `pds bench` leaves it.
        out: a picture.
        suite: whose edits are drawn, in its order.
        methods: a row for each, between the source and the truth.
        view: which held-out view.
        seed: of the cells.
    """
    rows: dict[str, list] = {"source": [], **{method: [] for method in methods}, "ground truth": []}
    shown: list[Any] = read_suite(suite).edits
    for edit in shown:
        shared = bench / "scenes" / f"{edit.name}.{seed}"
        scene, source = next(shared.rglob("edit.json")).parent, last_run([shared])
        for method in methods:
            edited = last_run([bench / "cells" / f"{edit.name}.{method}.{seed}"])
            before, after, truth = to_look_at(edit, scene, source, edited, [view])
            rows[method].append(after[0])
        rows["source"].append(before[0])
        rows["ground truth"].append(truth[0])
    labels = {method: method.replace("+", " + ") for method in rows}
    named = {labels[method]: pictures for method, pictures in rows.items()}
    contact_sheet(named, out, "One held-out view of each edit", tile=96, columns=[edit.name for edit in shown])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
