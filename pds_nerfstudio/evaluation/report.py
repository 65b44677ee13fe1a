"""Measured edits for readers: JSON, a table for the terminal, and an HTML file, pictures first, to send to somebody."""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from rich.table import Table

from pds_nerfstudio.evaluation.measure import HELD_OUT, METRICS, Judges, Measured, Metric
from pds_nerfstudio.pictures import Image3, as_pil, heat
from pds_nerfstudio.scenes.shots import Shot, depth_pictures
from pds_nerfstudio.text import in_rich

LARGEST, THUMBNAIL = 640, 96
"""Longer side in pixels of what a page shows, and of what one clicks on to see it."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One run of a report."""

    label: str
    """Short and unique within the report."""
    folder: Path
    before: Path
    """Folder of the run that it is compared with."""
    prompts: tuple[str, str]
    measured: Measured


def as_json(entries: Sequence[Entry], judges: Judges) -> dict[str, Any]:
    """Everything measured, with formulas: plain JSON, in which infinity is the string "inf" and NaN is null."""
    return {
        "clip": judges.clip_name,
        "distance": judges.distance_name,
        "metrics": {
            key: {
                "name": m.name,
                "formula": m.formula,
                "better": m.better,
                "over": _over(m, entries),
                "reading": m.reading,
            }
            for key, m in METRICS.items()
        },
        "runs": [
            {
                "label": entry.label,
                "run": str(entry.folder),
                "before": str(entry.before),
                "src_prompt": entry.prompts[0],
                "tgt_prompt": entry.prompts[1],
                "over": entry.measured.over,
                "views": entry.measured.views,
                "mean": {key: json_number(entry.measured.mean(key)) for key in METRICS},
                "values": {key: [json_number(v) for v in values] for key, values in entry.measured.values.items()},
            }
            for entry in entries
        ],
    }


def json_number(value: float | None) -> float | str | None:
    """A number that JSON can hold: infinity, which it cannot, as "inf" or "-inf"; NaN and None as null."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def as_table(entries: Sequence[Entry], judges: Judges) -> Table:
    """Metrics down, runs across; the best of several in bold."""
    labels = [in_rich(entry.label) for entry in entries]
    table = Table("metric", *labels, "formula", title="Edits compared with their sources")
    for key, metric in METRICS.items():
        table.add_row(
            metric.name, *(f"[bold]{v}[/]" if best else v for v, best in _row(key, entries)), f"[dim]{metric.formula}"
        )
    others = "".join(
        f" {in_rich(entry.label)}: over {entry.measured.over}." for entry in entries if entry.measured.over != HELD_OUT
    )
    table.caption = f"C: {in_rich(judges.clip_name)}. d: {in_rich(judges.distance_name)}.{others}"
    return table


def as_html(entries: Sequence[Entry], judges: Judges) -> str:
    """One self-contained page: of each run every view with a slider between before and after and its maps; then the
    numbers, their formulas folded."""
    head = "".join(
        f"<th>{html.escape(_wanted(entry))}<small>{html.escape(entry.label)}</small></th>" for entry in entries
    )
    rows = formulas = ""
    for key, metric in METRICS.items():
        cells = "".join(f"<td>{'<b>' + v + '</b>' if best else v}</td>" for v, best in _row(key, entries))
        better = f" ({metric.reading})" if metric.reading else ""
        rows += f"<tr><th>{html.escape(metric.name)}{better}</th>{cells}</tr>\n"
        formulas += f"<dt>{html.escape(metric.name)}</dt>"
        formulas += f"<dd>{html.escape(metric.formula)}; over {html.escape(_over(metric, entries))}</dd>\n"
    page = Template((Path(__file__).parent / "report.html").read_text(encoding="utf8"))
    return page.substitute(
        title=html.escape(", ".join(dict.fromkeys(map(_wanted, entries)))),
        sections="".join(map(_section, entries)),
        head=head,
        rows=rows,
        formulas=formulas,
        clip=html.escape(judges.clip_name),
        distance=html.escape(judges.distance_name),
    )


def _over(metric: Metric, entries: Sequence[Entry]) -> str:
    """What a metric is taken over; of runs that differ in that, both."""
    return metric.over or " or ".join(dict.fromkeys(entry.measured.over for entry in entries))


def _wanted(entry: Entry) -> str:
    """What an edit is called: by its prompt, or where it has none by its run."""
    return entry.prompts[1] or entry.label


def _row(key: str, entries: Sequence[Entry]) -> list[tuple[str, bool]]:
    """Every run's mean as text, and whether it is the best of several edits of one scene by the same prompts."""
    better, means = METRICS[key].better, [entry.measured.mean(key) for entry in entries]
    rivals: dict[tuple[Path, tuple[str, str]], list[float]] = {}
    for entry, mean in zip(entries, means, strict=True):
        if mean is not None and not math.isnan(mean):
            rivals.setdefault((entry.before, entry.prompts), []).append(mean)
    row = []
    for entry, mean in zip(entries, means, strict=True):
        known = rivals.get((entry.before, entry.prompts), [])
        is_best = bool(better) and len(known) > 1 and mean == (max if better == "higher" else min)(known)
        row.append(("not measured" if mean is None else f"{mean:.4g}", is_best))
    return row


def _section(entry: Entry) -> str:
    measured = entry.measured
    source, target = entry.prompts
    pairs = list(zip(measured.before, measured.after, strict=True))
    views = [_view(before, after, number) for number, (before, after) in enumerate(pairs)]
    buttons = "".join(
        f"<button aria-label='view {number + 1}' aria-pressed={'false' if number else 'true'}>"
        f"<img src='{_data_url(after.image, THUMBNAIL)}' alt=''></button>"
        for number, (_, after) in enumerate(pairs)
    )
    left_out = measured.views > len(pairs)
    note = f" · {len(pairs)} of {measured.views} {measured.over}" if left_out else f" · {measured.over}"
    title = f"“{source}” → “{target}”" if source and target else target or entry.label
    after, before = (f"<code>{html.escape(str(folder))}</code>" for folder in (entry.folder, entry.before))
    return (
        f"<section><h2>{html.escape(title)}</h2>\n<p>{html.escape(entry.label)}{note} · "
        f"{after}, compared with {before}</p>\n"
        f"{''.join(views)}"
        f"<div class=views>{buttons}</div></section>\n"
    )


def _view(before: Shot, after: Shot, number: int) -> str:
    """One view: a slider between its two pictures, and what changed."""
    depths = depth_pictures(before, after)
    maps = {
        "change (white: 0.5 or more)": heat(after.image[None], before.image[None])[0],
        "depth before": depths[0],
        "depth after": depths[1],
    }
    figures = "".join(
        f"<figure><img src='{_data_url(picture)}' alt='{name}'><figcaption>{name}</figcaption></figure>"
        for name, picture in maps.items()
    )
    return (
        f"<div class=view{' hidden' if number else ''}><div class=slider style='--at:50%'>"
        f"<img src='{_data_url(before.image)}' alt=before><img class=after src='{_data_url(after.image)}' alt=after>"
        "<b>before</b><b>after</b><input type=range min=0 max=100 value=50 aria-label='before and after'></div>"
        f"<div class=maps>{figures}</div></div>\n"
    )


def _data_url(picture: Image3, most: int = LARGEST) -> str:
    """RGB in [0, 1] as a JPEG, no larger than `most` pixels to a side."""
    image = as_pil(picture)
    image.thumbnail((most, most))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
