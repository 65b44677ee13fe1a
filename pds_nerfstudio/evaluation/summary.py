"""What the records of a benchmark say together: means with intervals, who lies outside the anchors, a plot."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pds_nerfstudio.evaluation.bench import ANCHORS, CEILING, NOTHING

COLUMNS = {
    "psnr_to_target_in_change_mask_after": ("in mask, dB", "{:.2f}"),
    "background_psnr": ("background, dB", "{:.1f}"),
    "target_probability_after": ("probability", "{:.2f}"),
    "success": ("success", "{:.0%}"),
    "saturation_drift": ("saturation drift", "{:+.3f}"),
}
BRACKETED = ("psnr_to_target_in_change_mask_after", "target_probability_after")
"""Metrics in which doing nothing is the worst that a method should do, and the ceiling the best."""
KINDS = ("appearance", "addition", "shape")
Records = Sequence[dict[str, Any]]


def mean_with_interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Mean and its 95 % interval by bootstrap over the values (Efron 1979, percentiles)."""
    array = np.asarray(values, dtype=float)
    if len(array) == 1 or not np.isfinite(array).all():
        return float(array.mean()), math.nan, math.nan
    chosen = np.random.default_rng(0).integers(len(array), size=(draws, len(array)))
    low, high = np.percentile(array[chosen].mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def table(records: Records) -> str:
    """Markdown: for each kind of edit a line per method, means over edits and seeds with their intervals."""
    lines = []
    for kind in [kind for kind in KINDS if any(record["kind"] == kind for record in records)]:
        lines += [f"### {kind}", "", "| method | cells | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
        lines.append("|---" * (2 + len(COLUMNS)) + "|")
        for method in dict.fromkeys(record["method"] for record in records):
            chosen = [r["metrics"] for r in records if (r["kind"], r["method"]) == (kind, method)]
            if chosen:
                entries = [_entry([m[name] for m in chosen], form) for name, (_, form) in COLUMNS.items()]
                lines.append(f"| {method} | {len(chosen)} | " + " | ".join(entries) + " |")
        lines.append("")
    return "\n".join(lines)


def _entry(values: list[float], form: str) -> str:
    mean, low, high = mean_with_interval(values)
    text = form.format(mean)
    return text if math.isnan(low) else f"{text} ({form.format(low)} … {form.format(high)})"


def outside_the_anchors(records: Records) -> list[str]:
    """Where a method does worse than nothing, or better than the ceiling: one sentence each."""
    of_cell = {(r["edit"], r["seed"], r["method"]): r["metrics"] for r in records}
    found = []
    for (edit, seed, method), metrics in of_cell.items():
        for anchor, sign, word in ((NOTHING, 1, "below"), (CEILING, -1, "above")):
            bound = of_cell.get((edit, seed, anchor))
            if bound is None or method in ANCHORS:
                continue
            found += [
                f"{method} on {edit}, seed {seed}: {name} {metrics[name]:.3f} is {word} that of `{anchor}`, "
                f"{bound[name]:.3f}."
                for name in BRACKETED
                if sign * (metrics[name] - bound[name]) < -1e-6
            ]
    return found


def plot(records: Records, path: Path) -> None:
    """Target against background PSNR: up is closer to what was asked, right closer to what was there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = [kind for kind in KINDS if any(record["kind"] == kind for record in records)]
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.8), squeeze=False, layout="constrained")
    methods = [m for m in dict.fromkeys(r["method"] for r in records) if m != NOTHING]
    for kind, axis in zip(kinds, axes[0], strict=True):
        for i, method in enumerate(methods):
            chosen = [r["metrics"] for r in records if (r["kind"], r["method"]) == (kind, method)]
            x = [m["background_psnr"] for m in chosen]
            y = [m["psnr_to_target_in_change_mask_after"] for m in chosen]
            axis.scatter(x, y, s=9, alpha=0.35, color=f"C{i}")
            if chosen:
                axis.scatter(np.mean(x), np.mean(y), s=60, color=f"C{i}", edgecolor="black", label=method)
        axis.set(title=kind, xlabel="background PSNR to the source (dB)")
        axis.grid(alpha=0.2)
    axes[0][0].set_ylabel("PSNR to the target in the change mask (dB)")
    axes[0][-1].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
