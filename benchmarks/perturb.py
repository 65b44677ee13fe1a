"""Does perturbation pay? Toybox edits of shape by pds-edit and pnr-edit, against their ground truth.

    python benchmarks/perturb.py --family splatfacto                 # the table and the sheets
    python benchmarks/perturb.py --family nerfacto --edits raise-arms
    python benchmarks/perturb.py --rows "eta 0" "eta 0.2" "eta 0.4" "eta 0.6" "eta 0.8" --edits flat-to-tall
    python benchmarks/perturb.py --checkpoints 100                   # also the curves of PSNR over steps

A finished cell is kept in OUT/results.json and not computed again. All rows of an edit share one reconstruction, one
number of edit steps, guidance and range of timesteps.
"""

import contextlib
import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

LARGE = (
    "flat-to-tall",
    "tall-to-flat",
    "flat-to-cone",
    "ring-to-tall",
    "raise-arms",
    "arms-out",
    "lower-arms",
    "man-hat",
)
SMALL = ("can-to-cone",)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "pds": ("pds-edit", {}),
    "pds, densified": (
        "pds-edit",
        {"pipeline.densify_from": 100, "pipeline.densify_every": 50, "pipeline.densify_growth": 2.0},
    ),
    "pnr": ("pnr-edit", {}),
    "pnr, densified": (
        "pnr-edit",
        {"pipeline.densify_from": 100, "pipeline.densify_every": 50, "pipeline.densify_growth": 2.0},
    ),
    "pnr, no refinement": ("pnr-edit", {"pipeline.refine_steps": 0}),
    "pnr, everywhere": ("pnr-edit", {"pipeline.perturb": "everywhere"}),
    "pnr, annealed": ("pnr-edit", {"pipeline.anneal": True}),
    "pnr, proposals frozen": ("pnr-edit", {"pipeline.proposal_losses": False}),
    **{
        f"eta {eta}": ("pnr-edit", {"pipeline.eta": eta, "pipeline.eta_opacity": min(1.0, eta * 0.8 / 0.3)})
        for eta in (0.0, 0.2, 0.4, 0.6, 0.8)
    },
}
COLUMNS = {
    "psnr_to_target_in_change_mask_after": "in mask",
    "psnr_to_target_after": "image",
    "background_psnr": "background",
    "target_probability_after": "probability",
    "target_recognised": "recognised",
}


def main(
    family: Literal["splatfacto", "nerfacto"] = "splatfacto",
    edits: tuple[str, ...] = (*LARGE, *SMALL),
    rows: tuple[str, ...] = ("pds", "pnr"),
    out: Path = Path("outputs/perturb"),
    steps: int | None = None,
    checkpoints: int | None = None,
    wall: Path | None = None,
    seed: int = 0,
) -> None:
    """Run what is missing and print the table.

    Args:
        steps: edit steps of every row, refinement included; by default the trials' own.
        checkpoints: also measure every so many steps, for the curves.
        wall: also draw two held-out views of every edit, one row of pictures for each row, into this file.
    """
    console = Console()
    cells = [(edit, row) for edit in edits for row in rows]
    file = out / "results.json"
    results: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for edit, row in cells:
        key = {"family": family, "edit": edit, "row": row, "steps": steps, "seed": seed}
        if any(all(cell[name] == value for name, value in key.items()) for cell in results):
            continue
        cell = key | run(family, edit, row, out, steps, checkpoints, seed)
        results.append(cell)
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"{edit}, {row}: " + ", ".join(f"{title} {cell[name]:.2f}" for name, title in COLUMNS.items()))
    if wall is not None:
        draw_wall([cell for cell in results if cell["family"] == family], edits, rows, out / family, wall)
    show([cell for cell in results if cell["family"] == family and cell["steps"] == steps], edits, rows, console)


def run(
    family: Any, edit_name: str, row: str, out: Path, steps: int | None, checkpoints: int | None, seed: int
) -> dict[str, Any]:
    """One cell: numbers of one edit by one row."""
    from pds_nerfstudio.evaluation import trial
    from pds_nerfstudio.pipelines import trainer
    from pds_nerfstudio.toybox.dataset import write_edit
    from pds_nerfstudio.toybox.spec import find_edit

    edit = find_edit(edit_name)
    folder = out / family / edit_name
    method, changes = ROWS[row]
    method += "-splat" * (family == "splatfacto")
    settings = trial.SETTINGS[family]
    settings = dataclasses.replace(settings, edit_steps=steps or settings.edit_steps)
    if "pipeline.densify_growth" in changes:
        changes = changes | {"pipeline.densify_until": settings.edit_steps // 2 + 20}
    trainer.progress_console = Console(stderr=True)
    with contextlib.redirect_stdout(io.StringIO()):
        if not (folder / "scene").exists():
            write_edit(edit, folder / "scene", seed=seed)
        source = _reconstruction(family, folder, settings.reconstruction_steps, seed)
        start = time.perf_counter()
        edited = trial.run_edit(method, source, edit, folder, settings, seed, changes, checkpoints)
        seconds = time.perf_counter() - start
        comparison = trial.compare(edit, folder / "scene", source, edited)
        comparison.sheet(out / "sheets" / f"{family} {edit_name} {row}.png")
        curve = {}
        for step in range(checkpoints, settings.edit_steps, checkpoints) if checkpoints else ():
            curve[step] = trial.compare(edit, folder / "scene", source, edited, step).numbers
    return {
        **comparison.numbers,
        "run": str(edited),
        "seconds": round(seconds, 1),
        "last_step": settings.edit_steps,
        "curve": curve,
    }


def _reconstruction(family: Any, folder: Path, steps: int, seed: int) -> Path:
    """The source run of an edit, made once."""
    from pds_nerfstudio.evaluation import trial

    found = sorted(folder.glob("runs/source/*/*/nerfstudio_models/*.ckpt"))
    if found:
        return found[-1].parent.parent / "config.yml"
    return trial.reconstruct(family, folder / "scene" / "source", folder, steps, seed)


def draw_wall(
    results: list[dict[str, Any]], edits: tuple[str, ...], rows: tuple[str, ...], folder: Path, path: Path
) -> None:
    """Columns are edits, two held-out views of each; rows are the source, every method, and the truth."""
    import torch

    from pds_nerfstudio.evaluation import trial
    from pds_nerfstudio.pictures import contact_sheet
    from pds_nerfstudio.toybox.spec import find_edit

    pictures: dict[str, list[Any]] = {"source": [], **{row: [] for row in rows}, "ground truth": []}
    for edit in edits:
        for row in rows:
            run = next(Path(cell["run"]) for cell in results if (cell["edit"], cell["row"]) == (edit, row))
            with contextlib.redirect_stdout(io.StringIO()):
                source = sorted((folder / edit).glob("runs/source/*/*/config.yml"))[-1]
                comparison = trial.compare(find_edit(edit), folder / edit / "scene", source, run)
            pictures[row].append(comparison.edited[[0, 2]])
        pictures["source"].append(comparison.source[[0, 2]])
        pictures["ground truth"].append(comparison.truth[[0, 2]])
    contact_sheet({row: torch.cat(images) for row, images in pictures.items()}, path, ", ".join(edits), tile=96)


def show(results: list[dict[str, Any]], edits: tuple[str, ...], rows: tuple[str, ...], console: Console) -> None:
    """One line per edit and row, and the mean over edits of every row."""
    table = Table("edit", "row", "source", *COLUMNS.values(), "seconds")
    of_row: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for edit in edits:
        for row in rows:
            for cell in results:
                if (cell["edit"], cell["row"]) == (edit, row):
                    of_row[row].append(cell)
                    before = f"{cell['psnr_to_target_in_change_mask_before']:.2f}"
                    table.add_row(edit, row, before, *(f"{cell[c]:.2f}" for c in COLUMNS), f"{cell['seconds']:.0f}")
        table.add_section()
    for row, cells in of_row.items():
        if cells:
            means = (f"{sum(cell[c] for cell in cells) / len(cells):.2f}" for c in COLUMNS)
            table.add_row(f"mean of {len(cells)}", row, "", *means, "")
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
