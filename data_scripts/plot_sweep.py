"""Draws what single settings of a method do to edits whose right answer is known, and prints the table of it.

    pds bench --suite suites/sweep.yaml --edit-steps 400 --out outputs/sweep \
        --methods pds-edit 'pds-edit[pipeline.objective.guidance_scale=15]' …
    python data_scripts/plot_sweep.py --results outputs/sweep/sweep/splatfacto --out docs/figures/sweep.png

One panel for each method: from the method as it is (star), a line to each of its variants. Means over the suite.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import tyro

mpl.use("Agg")
import matplotlib.pyplot as plt

from pds_nerfstudio.evaluation import summary
from pds_nerfstudio.evaluation.records import with_numbers
from pds_nerfstudio.evaluation.rows import read_link

MASK, BACKGROUND = "psnr_to_target_in_change_mask_after", "background_psnr"
SHOWN = (MASK, BACKGROUND, "target_probability_after", "success")


def main(results: Path, out: Path) -> None:
    """Print the table and draw the figure.

    Args:
        results: folder that `pds bench` wrote to.
        out: PNG to write.
    """
    records = [with_numbers(record) for record in json.loads((results / "results.json").read_text())]
    means = {method: mean_of(records, method) for method in dict.fromkeys(record["method"] for record in records)}
    print("| method | in mask, dB | background, dB | probability | success |\n|---|---:|---:|---:|---:|")
    for method, (mask, background, probability, success) in means.items():
        print(f"| {name_of(method)} | {mask:.2f} | {background:.1f} | {probability:.2f} | {success:.0%} |")
    bases = [method for method in means if not read_link(method)[1]]
    figure, axes = plt.subplots(1, len(bases), figsize=(5.5 * len(bases), 4.5), squeeze=False, layout="constrained")
    for base, axis in zip(bases, axes[0], strict=True):
        draw(axis, base, means)
    axes[0][0].set_ylabel("PSNR to the target in the change mask (dB)")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def mean_of(records: Sequence[dict[str, Any]], method: str) -> list[float]:
    """Means over the edits of what is shown."""
    chosen = [record["metrics"] for record in records if record["method"] == method]
    return [math.fsum(metrics[name] for metrics in chosen) / len(chosen) for name in SHOWN]


def name_of(method: str) -> str:
    """A variant's name; of a rate, what it ends at goes without saying."""
    base, changes = read_link(method)
    parts = []
    for name, value in changes.items():
        *_, group, _, last = ("", "", *name.split("."))
        if last != "lr_final":
            parts.append(f"{group} lr={value}" if last == "lr" else f"{last}={value}")
    return f"{base} [{', '.join(parts)}]" if parts else base


def draw(axis: Any, base: str, means: dict[str, list[float]]) -> None:
    """One method and its variants."""
    y, x = means[base][:2]
    for i, (method, (up, across, *_)) in enumerate(means.items()):
        if read_link(method)[0] == base and method != base:
            axis.plot([x, across], [y, up], color=f"C{i % 10}", alpha=0.5)
            axis.scatter(across, up, color=f"C{i % 10}", s=25)
            axis.annotate(name_of(method).partition("[")[2].removesuffix("]"), (across, up), fontsize=7)
    axis.scatter(x, y, marker="*", s=160, color="black", zorder=3)
    axis.set(title=summary.short(base), xlabel="background PSNR to the source (dB)")
    axis.margins(0.2)
    axis.grid(alpha=0.2)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
