"""Does it help to remove faint Gaussians when an edit has ended? On the scenes that a benchmark has left.

    pds bench --suite suites/dev.yaml --methods pnr-edit pnr-edit+sdedit-refine
    python benchmarks/pruning.py --cells outputs/bench/dev/splatfacto

Of each row, in dB, over its cells of one seed: by how much PSNR to the truth changes where source and target differ,
and elsewhere, without the Gaussians that are fainter than a threshold. Nothing is written.
"""

from pathlib import Path

import torch
import tyro
from controls import CHANGED, decibels

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.trial import render_eval_views
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.scenes.views import eval_views

GONE = -20.0
"""Logit of an opacity that shows nothing."""


def changes(cell: Path, scene: Path, thresholds: tuple[float, ...]) -> torch.Tensor:
    """[thresholds 2]: change of PSNR in the mask and elsewhere for an edit's cell."""
    last = max(cell.rglob("config.yml"), key=lambda path: path.stat().st_mtime)
    pipeline = load_run(last)
    names = [Path(name).name for name in eval_views(pipeline.datamanager).names]
    source, truth = (
        read_images([next(scene.rglob(side)) / "images" / name for name in names]) for side in ("source", "target")
    )
    mask = ((source - truth).abs().amax(1, keepdim=True) > CHANGED).float()
    opacities = pipeline.model.opacities.data  # pyright: ignore[reportAttributeAccessIssue]
    before, found = opacities.clone(), []
    for threshold in (0.0, *thresholds):
        opacities.copy_(before.where(before.sigmoid() >= threshold, torch.full_like(before, GONE)))
        pictures = render_eval_views(pipeline)
        found.append([decibels(pictures, truth, mask), decibels(pictures, truth, 1 - mask)])
    table = torch.tensor(found)
    return table[1:] - table[0]


@torch.no_grad()
def main(
    cells: Path = Path("outputs/bench/dev/splatfacto"),
    methods: tuple[str, ...] = ("pnr-edit", "pnr-edit+sdedit-refine"),
    thresholds: tuple[float, ...] = (0.03, 0.1, 0.2, 0.3),
    seed: int = 0,
) -> None:
    """Measure, and print a table.

    Args:
        cells: the folder of a suite and family, as `pds bench` leaves it.
        methods: rows.
        thresholds: opacities.
        seed: of the cells.
    """
    print("| row | cells | opacity below | in mask: mean, least, most | elsewhere: mean, least, most |")
    print("|---|---:|---:|---:|---:|")
    for method in methods:
        folders = sorted(cells.glob(f"cells/*.{method}.{seed}"))
        edits = [folder.name.partition(".")[0] for folder in folders]
        found = torch.stack(
            [
                changes(folder, cells / "scenes" / f"{edit}.{seed}", thresholds)
                for folder, edit in zip(folders, edits, strict=True)
            ]
        )
        for i, threshold in enumerate(thresholds):
            shown = [f"{part.mean():+.2f}, {part.min():+.2f}, {part.max():+.2f}" for part in found[:, i].unbind(dim=-1)]
            print(f"| {method} | {len(found)} | {threshold:g} | {shown[0]} | {shown[1]} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
