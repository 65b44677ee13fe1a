"""Measured edits for readers: JSON, a table for the terminal, and one HTML file that can be sent to somebody."""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from rich.table import Table

from pds_nerfstudio.evaluation.measure import METRICS, Judges, Measured
from pds_nerfstudio.pictures import as_pil
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.shots import before_after_sheet
from pds_nerfstudio.text import in_rich

SHEET_VIEWS = 6


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
            key: {"name": m.name, "formula": m.formula, "better": m.better, "over": m.over}
            for key, m in METRICS.items()
        },
        "runs": [
            {
                "label": entry.label,
                "run": str(entry.folder),
                "before": str(entry.before),
                "src_prompt": entry.prompts[0],
                "tgt_prompt": entry.prompts[1],
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
    table.caption = f"C: {in_rich(judges.clip_name)}. d: {in_rich(judges.distance_name)}."
    return table


def as_html(entries: Sequence[Entry], judges: Judges) -> str:
    """One self-contained page: table, formulas, a sheet and a before/after slider for each run."""
    head = "".join(f"<th>{html.escape(entry.label)}</th>" for entry in entries)
    rows = ""
    for key, metric in METRICS.items():
        cells = "".join(f"<td>{'<b>' + v + '</b>' if best else v}</td>" for v, best in _row(key, entries))
        better = f" ({metric.better} is better)" if metric.better else ""
        rows += (
            f"<tr><th>{html.escape(metric.name)}{better}</th>{cells}"
            f"<td class=formula>{html.escape(metric.formula)}; over {html.escape(metric.over)}</td></tr>\n"
        )
    sections = "".join(_section(entry) for entry in entries)
    return PAGE.format(
        head=head,
        rows=rows,
        sections=sections,
        clip=html.escape(judges.clip_name),
        distance=html.escape(judges.distance_name),
    )


def _row(key: str, entries: Sequence[Entry]) -> list[tuple[str, bool]]:
    """Every run's mean as text, and whether it is the best of several."""
    means = [entry.measured.mean(key) for entry in entries]
    known = [mean for mean in means if mean is not None and not math.isnan(mean)]
    better = METRICS[key].better
    best = None if not better or len(known) < 2 else (max if better == "higher" else min)(known)
    return [("not measured" if mean is None else f"{mean:.4g}", mean is not None and mean == best) for mean in means]


def _section(entry: Entry) -> str:
    measured = entry.measured
    shown = evenly(len(measured.before), SHEET_VIEWS)
    source, target = entry.prompts
    title = f"{source or 'before'}   to   {target or 'after'}"
    with TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.png"
        before, after = ([shots[i] for i in shown] for shots in (measured.before, measured.after))
        before_after_sheet(before, after, sheet, title)
        picture = _data_url(Image.open(sheet))
    left, right = (_data_url(as_pil(shots[0].image), least_width=512) for shots in (measured.before, measured.after))
    return (
        f"<h2>{html.escape(entry.label)}</h2>\n<p>{html.escape(title)}<br><code>{html.escape(str(entry.folder))}</code>"
        f"</p>\n<div class=slider style='--at:50%'><img src='{left}' alt=before><img class=after src='{right}' "
        "alt=after><input type=range min=0 max=100 value=50 aria-label='before and after' "
        "oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\"></div>\n"
        f"<p><img src='{picture}' alt='held-out views before and after'></p>\n"
    )


def _data_url(image: Image.Image, least_width: int = 0) -> str:
    if image.width < least_width:
        scale = math.ceil(least_width / image.width)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>
<title>Edits compared with their sources</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em }}
table {{ border-collapse: collapse }} th, td {{ padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd }}
tr th:first-child, td.formula {{ text-align: left; font-weight: normal }} td.formula {{ color: #666; font-size: 13px }}
img {{ max-width: 100% }}
.slider {{ position: relative; display: inline-block }} .slider img {{ display: block }}
.slider .after {{ position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)) }}
.slider input {{ position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: .6; background: none }}
</style>
<h1>Edits compared with their sources</h1>
<table><tr><th></th>{head}<th></th></tr>
{rows}</table>
<p>b is the rendering before the edit and a the one after it, from the same camera. C is {clip}. d is {distance}.</p>
{sections}</html>
"""
