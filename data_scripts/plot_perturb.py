"""Draws edits over their steps, PSNR to the truth and to the source, and a sweep over η, from a benchmark's folder.

pds bench --suite suites/perturb.yaml --edits flat-to-tall raise-arms --out OUT --methods \\
    'pds-edit[steps_per_save=100,save_only_latest_checkpoint=false]' \\
    'pnr-edit[steps_per_save=100,save_only_latest_checkpoint=false]' \\
    'pnr-edit[pipeline.eta=0.4,pipeline.eta_opacity=1.0]' …
python data_scripts/plot_perturb.py --cells OUT/perturb/splatfacto/cells --out docs/figures/perturb_curves.png
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import tyro

from pds_nerfstudio.evaluation.rows import read_link
from pds_nerfstudio.evaluation.trial import compare
from pds_nerfstudio.toybox.spec import find_edit

COLOURS = {"pds-edit": "tab:blue", "pnr-edit": "tab:red"}
STYLES = ("-", "--", ":", "-.")
MASK, BACKGROUND = "psnr_to_target_in_change_mask_after", "background_psnr"


def main(cells: Path, out: Path = Path("outputs/perturb.png"), edits: tuple[str, ...] = ()) -> None:
    """One figure of three panels, or of two where no η was swept; of these edits, or of all."""
    records = {path.parent: json.loads(path.read_text()) for path in sorted(cells.glob("*/record.json"))}
    records = {folder: record for folder, record in records.items() if not edits or record["edit"] in edits}
    names = list(dict.fromkeys(record["edit"] for record in records.values()))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}
    sweep: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    curves = {}
    for folder, record in records.items():
        method, changes = read_link(record["method"])
        if "pipeline.eta" in changes:
            sweep.setdefault(record["edit"], []).append((changes["pipeline.eta"], record["metrics"]))
        if "steps_per_save" in changes:
            curves[record["edit"], method] = curve(folder, record)
    figure, axes = plt.subplots(1, 2 + bool(sweep), figsize=(4.3 * (2 + bool(sweep)), 3.8), layout="constrained")
    for (edit, method), points in curves.items():
        for axis, name in zip(axes[:2], (MASK, BACKGROUND), strict=True):
            steps, values = zip(*((step, numbers[name]) for step, numbers in points), strict=True)
            axis.plot(steps, values, styles[edit], color=COLOURS[method], label=f"{edit}, {method}")
    axes[0].set(xlabel="edit step", ylabel="dB", title="PSNR to the truth, in the change mask")
    axes[1].set(xlabel="edit step", ylabel="dB", title="PSNR to the source, outside of it")
    axes[0].legend(fontsize=8)
    for edit, points in sweep.items():
        points.sort(key=lambda point: point[0])
        for name, colour, what in ((MASK, "tab:red", "in mask"), (BACKGROUND, "tab:gray", "background")):
            values = [metrics[name] for _, metrics in points]
            label = f"{edit}, {what}"
            axes[2].plot([eta for eta, _ in points], values, styles[edit] + "o", color=colour, label=label)
    if sweep:
        axes[2].set(xlabel="η", ylabel="dB", title="how far to perturb")
        axes[2].legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def curve(folder: Path, record: dict[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """Steps of an edit's checkpoints, and the numbers of each."""
    scenes = folder.parents[1] / "scenes" / f"{record['edit']}.{record['seed']}"
    source = Path(json.loads((scenes / "source.json").read_text())["config"])
    run = Path(json.loads((folder / "edited.json").read_text())["made"]["scene"])
    steps = sorted(int(path.stem.removeprefix("step-")) for path in run.parent.glob("*/step-*.ckpt"))
    edit = find_edit(record["edit"])
    return [(step + 1, compare(edit, scenes / "scene", source, run, step).numbers) for step in steps]


if __name__ == "__main__":
    tyro.cli(main)
