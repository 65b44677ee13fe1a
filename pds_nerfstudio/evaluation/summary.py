"""What the records of a benchmark say together: means with intervals, who lies outside the anchors, a plot."""

import html
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pds_nerfstudio.evaluation.benchmark import VIEW
from pds_nerfstudio.evaluation.cells import Cell
from pds_nerfstudio.evaluation.rows import ANCHORS, CEILING, NOTHING, read_chain
from pds_nerfstudio.files import written
from pds_nerfstudio.pictures import Image3, contact_sheet, read_images

COLUMNS = {
    "psnr_to_target_in_change_mask_after": ("in mask, dB", "{:.2f}"),
    "background_psnr": ("background, dB", "{:.1f}"),
    "target_probability_after": ("probability", "{:.2f}"),
    "success": ("success", "{:.0%}"),
    "distance_to_target_in_change_mask": ("distance", "{:.3f}"),
    "view_consistency": ("consistency, dB", "{:.1f}"),
    "saturation_drift": ("saturation drift", "{:+.3f}"),
}
CAPTURE_COLUMNS = {
    "directional_similarity": ("directional similarity", "{:.3f}"),
    "clip_score": ("CLIP score", "{:.3f}"),
    "directional_consistency": ("directional consistency", "{:.3f}"),
    "psnr": ("PSNR to the source, dB", "{:.1f}"),
    "ssim": ("SSIM to the source", "{:.3f}"),
    "distance": ("distance to the source", "{:.3f}"),
}
"""Of scenes without a known answer, as `pds evaluate` defines them."""
AXES = (
    ("background_psnr", "background PSNR to the source (dB)"),
    (
        "psnr_to_target_in_change_mask_after",
        "PSNR to the target in the change mask (dB)",
    ),
)
CAPTURE_AXES = ("psnr", "PSNR to the source (dB)"), ("directional_similarity", "directional similarity")
BRACKETED = {
    "psnr_to_target_in_change_mask_after": 1,
    "ssim_to_target_in_change_mask": 1,
    "distance_to_target_in_change_mask": -1,
    "target_probability_after": 1,
}
"""Metrics in which doing nothing is the worst that a method should do, and the ceiling the best; 1 where higher is
better, -1 where lower is."""
NOT_MEASURED = "not measured"
"""Where a network that a metric needs is not on the machine."""
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


def columns(records: Records) -> dict[str, tuple[str, str]]:
    """The metrics that are shown, with their titles and formats."""
    return COLUMNS if _known_answer(records) else CAPTURE_COLUMNS


def headings(records: Records) -> tuple[str, ...]:
    """The table's first line."""
    return ("method", "cells", *(title for title, _ in columns(records).values()))


def sentence(record: dict[str, Any]) -> str:
    """A cell's outcome in a few words: what changed, and what stayed."""
    shown, metrics = columns([record]), record["metrics"]
    across, up = AXES if shown is COLUMNS else CAPTURE_AXES
    words = []
    for name, _ in (up, across):
        title, form = shown[name]
        words.append(f"{title} {form.format(metrics[name]) if name in metrics else NOT_MEASURED}")
    return ", ".join(words)


def _known_answer(records: Records) -> bool:
    return any(AXES[1][0] in record["metrics"] for record in records)


def table(records: Records, outside: Sequence[str] = ()) -> str:
    """Markdown: for each kind of edit a line per method, means over edits and seeds with their intervals over edits.

    Args:
        outside: the lines of `outside_the_anchors`, which follow.
    """
    lines, titles = [], headings(records)
    for kind, rows in _rows(records).items():
        lines += [f"### {kind}", "", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines.append("")
    if outside:
        lines += ["### outside the anchors", "", *(f"- {line}" for line in outside), ""]
    return "\n".join(lines)


def page(suite: str, records: Records, outside: Sequence[str]) -> str:
    """The same as HTML, with the plot and the wall that lie beside it."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in headings(records))
    tables = ""
    for kind, rows in _rows(records).items():
        body = "".join("<tr>" + "".join(f"<td>{html.escape(entry)}</td>" for entry in row) + "</tr>\n" for row in rows)
        tables += f"<h2>{kind}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n"
    if outside:
        tables += (
            "<h2>outside the anchors</h2>\n<ul>" + "".join(f"<li>{html.escape(line)}" for line in outside) + "</ul>\n"
        )
    return PAGE.format(suite=html.escape(suite), tables=tables)


def short(method: str) -> str:
    """A row's name with its settings by the last part of theirs: "pnr-edit + sdedit-refine [guidance_scale=2]"."""
    parts = []
    for name, changes in read_chain(method):
        settings = ", ".join(f"{setting.rpartition('.')[2]}={value}" for setting, value in changes.items())
        parts.append(f"{name} [{settings}]" if settings else name)
    return " + ".join(parts)


def _rows(records: Records) -> dict[str, list[list[str]]]:
    """For each kind of edit that is there, a line of entries per method."""
    rows: dict[str, list[list[str]]] = {}
    for kind in KINDS:
        for method in dict.fromkeys(record["method"] for record in records):
            chosen = [r for r in records if (r["kind"], r["method"]) == (kind, method)]
            if chosen:
                entries = [_entry(_by_edit(chosen, name), form) for name, (_, form) in columns(records).items()]
                rows.setdefault(kind, []).append([short(method), str(len(chosen)), *entries])
    return rows


def _by_edit(records: Records, metric: str) -> list[float]:
    """Each edit's mean over its seeds: those of one edit are alike, and no further evidence about other edits."""
    values: dict[str, list[float]] = {}
    for record in records:
        if metric in record["metrics"]:
            values.setdefault(record["edit"], []).append(record["metrics"][metric])
    return [math.fsum(of_edit) / len(of_edit) for of_edit in values.values()]


def _entry(values: list[float], form: str) -> str:
    """Mean and interval over edits."""
    if not values:
        return NOT_MEASURED
    mean, low, high = mean_with_interval(values)
    text = form.format(mean)
    return text if math.isnan(low) else f"{text} ({form.format(low)} … {form.format(high)})"


def outside_the_anchors(records: Records) -> list[str]:
    """Where methods do worse than nothing, or better than the ceiling: one sentence for each method and metric."""
    of_cell = {(r["edit"], r["seed"], r["method"]): r["metrics"] for r in records}
    found = []
    for method in dict.fromkeys(record["method"] for record in records if record["method"] not in ANCHORS):
        for name, better in BRACKETED.items():
            for anchor, sign, word in ((NOTHING, better, "worse than"), (CEILING, -better, "better than")):
                pairs = {
                    f"{edit}, seed {seed}": (metrics[name], of_cell[edit, seed, anchor][name])
                    for (edit, seed, of), metrics in of_cell.items()
                    if of == method and name in metrics and name in of_cell.get((edit, seed, anchor), {})
                }
                beyond = {cell: sign * (bound - value) for cell, (value, bound) in pairs.items()}
                outside = [cell for cell, excess in beyond.items() if excess > 1e-6]
                if outside:
                    cell = max(outside, key=beyond.__getitem__)
                    value, bound = pairs[cell]
                    found.append(
                        f"{method}: {name} is {word} that of `{anchor}` in {len(outside)} of {len(pairs)} cells, "
                        f"furthest on {cell}: {value:.3f} and {bound:.3f}."
                    )
    return found


def wall(cells: Sequence[Cell], path: Path) -> None:
    """One held-out view of every edit: a row for each method, the ground truth below where it is known.

    Args:
        cells: finished ones, of whose seeds the first is shown.
    """
    first = min(cell.seed for cell in cells)
    shown = {(cell.edit.name, cell.method): cell for cell in cells if cell.seed == first}
    edits = list(dict.fromkeys(edit for edit, _ in shown))
    some = [next(cell for (name, _), cell in shown.items() if name == edit) for edit in edits]
    truths = [cell.benchmark.truth(cell.edit, cell.scene_folder) for cell in some]
    rows = {}
    for method in dict.fromkeys(method for _, method in shown):
        files = [shown[edit, method].folder / VIEW if (edit, method) in shown else None for edit in edits]
        rows[short(method)] = _pictures(files)
    if all(truth is not None and truth.exists() for truth in truths):
        rows["ground truth"] = _pictures(truths)
    contact_sheet(rows, path, "One held-out view of each edit", tile=96, columns=edits)


def _pictures(files: Sequence[Path | None]) -> list[Image3]:
    """Pictures from files, white where there is none."""
    images = [None if file is None else read_images([file])[0] for file in files]
    some = next(image for image in images if image is not None)
    return [torch.ones_like(some) if image is None else image for image in images]


def plot(records: Records, path: Path) -> None:
    """What was asked against what should stay: up is closer to the target, right closer to the source."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    (across, across_title), (up, up_title) = AXES if _known_answer(records) else CAPTURE_AXES
    kinds = [kind for kind in KINDS if any(record["kind"] == kind for record in records)]
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.8), squeeze=False, layout="constrained")
    methods = [m for m in dict.fromkeys(r["method"] for r in records) if m != NOTHING]
    for kind, axis in zip(kinds, axes[0], strict=True):
        for i, method in enumerate(methods):
            chosen = [r["metrics"] for r in records if (r["kind"], r["method"]) == (kind, method)]
            chosen = [m for m in chosen if across in m and up in m]
            x, y = ([m[name] for m in chosen] for name in (across, up))
            axis.scatter(x, y, s=9, alpha=0.35, color=f"C{i}")
            if chosen:
                axis.scatter(np.mean(x), np.mean(y), s=60, color=f"C{i}", edgecolor="black", label=short(method))
        axis.set(title=kind, xlabel=across_title)
        axis.grid(alpha=0.2)
    axes[0][0].set_ylabel(up_title)
    handles = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = [textwrap.fill(label, 100) for label in handles]
    if labels:  # none of `nothing` alone
        longest = max(len(line) for label in labels for line in label.splitlines())
        columns = max(1, min(5, 60 * len(kinds) // longest))
        figure.legend(handles.values(), labels, fontsize=7, loc="outside lower center", ncols=columns)
    with written(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)


PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><title>{suite}</title>
<style>body {{font: 15px/1.4 sans-serif; margin: 2em}} table {{border-collapse: collapse}}
td, th {{padding: .2em .8em; text-align: right}} td:first-child, th:first-child {{text-align: left}}
tr:nth-child(even) {{background: #f4f4f4}} img {{max-width: 100%}}</style>
<h1>{suite}</h1>
<p>Means over edits and seeds, with 95 % bootstrap intervals.</p>
{tables}<p><img src=pareto.png alt="target against background PSNR"></p>
<p><img src=wall.png alt="one held-out view of each edit"></p>
"""
