"""What SDEdit refinement adds to an edit, and how iterative dataset update compares: toybox, against the ground truth.

    python benchmarks/refine.py refine --edits flat-to-tall can-to-cone
    python benchmarks/refine.py idu --edits red-to-blue flat-to-tall

Source runs and edits that benchmarks/perturb.py left in OUT are used as they are; what is missing is made. A finished
cell is kept in OUT/refine.json and not computed again.
"""

import contextlib
import dataclasses
import io
import json
import time
from pathlib import Path
from typing import Any, Literal

import tyro
from perturb import _reconstruction
from rich.console import Console
from rich.table import Table

GROW = {"pipeline.densify_from": 50, "pipeline.densify_until": 250, "pipeline.densify_every": 50}
ROWS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "refine": {
        "edit": ("pds-edit-splat", {}),
        "refined": ("sdedit-refine-splat", {"pipeline.update_every": 1000, "pipeline.guidance_scale": 2.0, **GROW}),
        "refined, details lost": (
            "sdedit-refine-splat",
            {
                "pipeline.update_every": 1000,
                "pipeline.guidance_scale": 2.0,
                "pipeline.keep_details": False,
                **GROW,
            },
        ),
        "refined, thrice": (
            "sdedit-refine-splat",
            {"pipeline.update_every": 5, "pipeline.guidance_scale": 2.0, **GROW},
        ),
    },
    "idu": {
        "pnr": ("pnr-edit-splat", {}),
        "idu, instruct": (
            "idu-edit-splat",
            {"pipeline.update_every": 5, "pipeline.guidance_scale": 4.0, "pipeline.num_steps": 10},
        ),
        "idu, inversion": ("idu-edit-splat", {"pipeline.update_every": 5, "pipeline.editor": "inversion"}),
    },
}
REFINES = ("sdedit-refine-splat",)
COLUMNS = {
    "psnr_to_target_after": "image",
    "psnr_to_target_in_change_mask_after": "in mask",
    "background_psnr": "background",
    "target_probability_after": "probability",
    "sharpness": "sharpness",
    "sharpness_of_truth": "of the truth",
}


def main(
    table: Literal["refine", "idu"],
    /,
    edits: tuple[str, ...] = ("flat-to-tall", "can-to-cone"),
    rows: tuple[str, ...] | None = None,
    out: Path = Path("outputs/perturb_splat"),
    steps: int = 400,
    seed: int = 0,
    wall: Path | None = None,
) -> None:
    """Run what is missing and print the table.

    Args:
        rows: of the table; all by default.
        steps: of refinement, or of iterative dataset update.
        wall: draw two held-out views of every edit, one row of pictures for each row, into this file.
    """
    console, file = Console(), out / "refine.json"
    cells: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    pictures: dict[str, list[Any]] = {}
    chosen = rows or tuple(ROWS[table])
    for edit in edits:
        for row in chosen:
            key = {"table": table, "edit": edit, "row": row, "steps": steps, "seed": seed}
            found = next((cell for cell in cells if all(cell[name] == value for name, value in key.items())), None)
            if found is None:
                found = key | run(table, edit, row, out, steps, seed)
                cells.append(found)
                file.write_text(json.dumps(cells, indent=1) + "\n")
            console.print(f"{edit}, {row}: " + ", ".join(f"{title} {found[c]:.4g}" for c, title in COLUMNS.items()))
        if wall is not None:
            runs = [
                next(c["run"] for c in cells if (c["edit"], c["row"], c["table"]) == (edit, r, table)) for r in chosen
            ]
            add_pictures(pictures, edit, dict(zip(chosen, runs, strict=True)), out)
    if wall is not None:
        import torch

        from pds_nerfstudio.pictures import contact_sheet

        contact_sheet({row: torch.cat(images) for row, images in pictures.items()}, wall, ", ".join(edits), tile=96)
    shown = Table("edit", "row", *COLUMNS.values(), "seconds")
    for cell in cells:
        if cell["table"] == table and cell["edit"] in edits and cell["row"] in chosen and cell["steps"] == steps:
            shown.add_row(cell["edit"], cell["row"], *(f"{cell[c]:.4g}" for c in COLUMNS), f"{cell['seconds']:.0f}")
    console.print(shown)


def run(table: str, edit_name: str, row: str, out: Path, steps: int, seed: int) -> dict[str, Any]:
    """One cell: numbers of one edit by one row."""
    from pds_nerfstudio.evaluation import trial
    from pds_nerfstudio.pipelines import trainer
    from pds_nerfstudio.toybox.dataset import write_edit
    from pds_nerfstudio.toybox.spec import find_edit

    edit, folder, settings = find_edit(edit_name), out / "splatfacto" / edit_name, trial.SETTINGS["splatfacto"]
    method, changes = ROWS[table][row]
    trainer.progress_console = Console(stderr=True)
    with contextlib.redirect_stdout(io.StringIO()):
        if not (folder / "scene").exists():
            write_edit(edit, folder / "scene", seed=seed)
        source = _reconstruction("splatfacto", folder, settings.reconstruction_steps, seed)
        start = time.perf_counter()
        base = _edit("pds-edit-splat", source, edit, folder, settings, seed) if method in REFINES else source
        if method in ("pds-edit-splat", "pnr-edit-splat"):
            made = _edit(method, source, edit, folder, settings, seed)
        else:
            settings = dataclasses.replace(settings, edit_steps=steps)
            made = trial.run_edit(method, base, edit, folder, settings, seed, changes)
        seconds = time.perf_counter() - start
        comparison = trial.compare(edit, folder / "scene", source, made)
    return {
        **comparison.numbers,
        "sharpness": sharpness(comparison.edited),
        "sharpness_of_truth": sharpness(comparison.truth),
        "run": str(made),
        "seconds": round(seconds, 1),
    }


def sharpness(images: Any) -> float:
    """Variance of the 4-neighbour Laplacian of the grey image, RGB in [0, 1]; the mean over views."""
    import torch

    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(torch.nn.functional.conv2d(images.mean(1, keepdim=True), kernel).var((1, 2, 3)).mean())


def add_pictures(pictures: dict[str, list[Any]], edit_name: str, runs: dict[str, str], out: Path) -> None:
    """Two held-out views of an edit: source, every row, and the truth."""
    from pds_nerfstudio.evaluation import trial
    from pds_nerfstudio.toybox.spec import find_edit

    folder = out / "splatfacto" / edit_name
    with contextlib.redirect_stdout(io.StringIO()):
        source = _reconstruction("splatfacto", folder, 0, 0)
        for row, made in runs.items():
            comparison = trial.compare(find_edit(edit_name), folder / "scene", source, Path(made))
            if row == next(iter(runs)):
                pictures.setdefault("source", []).append(comparison.source[[0, 2]])
            pictures.setdefault(row, []).append(comparison.edited[[0, 2]])
        pictures.setdefault("ground truth", []).append(comparison.truth[[0, 2]])


def _edit(method: str, source: Path, edit: Any, folder: Path, settings: Any, seed: int) -> Path:
    """An edit by distillation: benchmarks/perturb.py's, or a new one."""
    from pds_nerfstudio.evaluation import trial

    results = folder.parents[1] / "results.json"
    of_table = json.loads(results.read_text()) if results.exists() else []
    wanted = ("splatfacto", edit.name, method.removesuffix("-edit-splat"), None, seed)
    for cell in of_table:
        if tuple(cell[name] for name in ("family", "edit", "row", "steps", "seed")) == wanted:
            return Path(cell["run"])
    found = sorted(folder.glob(f"runs/edited/{method}/*/nerfstudio_models/*.ckpt"))
    return (
        found[-1].parents[1] / "config.yml" if found else trial.run_edit(method, source, edit, folder, settings, seed)
    )


if __name__ == "__main__":
    tyro.cli(main)
