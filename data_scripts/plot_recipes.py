"""Draws what an edit has reached after how many steps, by several recipes, beside its known answer.

    pds bench --suite suites/recipes.yaml --out outputs/recipes \
        --methods 'pds-edit[max_num_iterations=200]' … 'pds-edit[max_num_iterations=30000,optimizers…]'
    python data_scripts/plot_recipes.py --results outputs/recipes/recipes/splatfacto --out docs/figures/recipes.png

One column for each edit; a recipe is a method with all of its settings but the number of steps.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import tyro

mpl.use("Agg")
import matplotlib.pyplot as plt

from pds_nerfstudio.evaluation.records import with_numbers
from pds_nerfstudio.evaluation.rows import read_link

STEPS = "max_num_iterations"
SHOWN = {
    "psnr_to_target_in_change_mask_after": "PSNR to the target\nin the change mask (dB)",
    "background_psnr": "PSNR to the source\noutside of it (dB)",
}
Curves = dict[str, dict[str, list[tuple[int, dict[str, float]]]]]


def main(results: Path, out: Path) -> None:
    """Print the table and draw the figure.

    Args:
        results: folder that `pds bench` wrote to, or a file of such records.
        out: PNG to write.
    """
    file = results / "results.json" if results.is_dir() else results
    records = [with_numbers(record) for record in json.loads(file.read_text())]
    curves: Curves = defaultdict(lambda: defaultdict(list))
    for record in records:
        method, changes = read_link(record["method"])
        if STEPS in changes:
            curves[record["edit"]][recipe_of(method, changes)].append((changes[STEPS], record["metrics"]))
    print("| edit | recipe | steps | in mask, dB | background, dB | probability |\n|---|---|---:|---:|---:|---:|")
    for edit, recipes in curves.items():
        for recipe, points in recipes.items():
            points.sort(key=lambda point: point[0])
            for steps, metrics in points:
                mask, background = (metrics[name] for name in SHOWN)
                shown = metrics["target_probability_after"]
                print(f"| {edit} | {recipe} | {steps:,} | {mask:.2f} | {background:.1f} | {shown:.2f} |")
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(curves).savefig(out, dpi=100)


def recipe_of(method: str, changes: dict[str, Any]) -> str:
    """What tells a recipe from others, in words."""
    if changes.get("pipeline.anneal"):
        return "timesteps annealed"
    if rate := changes.get("optimizers.features_dc.optimizer.lr"):
        return f"colours at {rate}, Adam's ε 1e-15"
    return "as in the trials" if method == "pds-edit" else method


def draw(curves: Curves) -> Any:
    """Steps against both distances."""
    figure, axes = plt.subplots(
        2, len(curves), figsize=(4.6 * len(curves), 6), sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    for column, (edit, recipes) in zip(axes.T, curves.items(), strict=True):
        column[0].set_title(edit)
        column[1].set_xlabel("steps")
        for axis, (name, label) in zip(column, SHOWN.items(), strict=True):
            for recipe, points in recipes.items():
                axis.plot([steps for steps, _ in points], [shown[name] for _, shown in points], "o-", label=recipe)
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
            axis.set_ylabel(label if axis in axes[:, 0] else "")
    axes[0][0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
