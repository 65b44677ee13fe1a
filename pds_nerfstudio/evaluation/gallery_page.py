"""Many edits of one scene on one page: films with a slider on them, stills, numbers, settings, and how to repeat each.

The page is one file: a film or picture that several edits share, such as those of the scene before, is in it once.
"""

import base64
import hashlib
import html
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from pds_nerfstudio.evaluation.benchmark import Edit
from pds_nerfstudio.evaluation.cells import Cell
from pds_nerfstudio.evaluation.gallery import AFTER, BEFORE, LOOK, SPLATS, STILLS, OwnRun, lines_of, made_by
from pds_nerfstudio.evaluation.measure import HELD_OUT, METRICS
from pds_nerfstudio.evaluation.records import read_record
from pds_nerfstudio.evaluation.summary import short
from pds_nerfstudio.files import read_json
from pds_nerfstudio.run_yaml import Settings
from pds_nerfstudio.runs import read_run

KINDS = {".mp4": "video/mp4", ".png": "image/png"}
ON_A_CARD = ("directional_similarity", "clip_score", "psnr", "ssim", "distance")
"""The numbers that stand beside a film; all of them are in the table."""


@dataclass
class Files:
    """What is embedded, by what is in it."""

    embedded: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, path: Path) -> str:
        """Embed a film or picture; its name on the page."""
        content = path.read_bytes()
        name = hashlib.sha256(content).hexdigest()[:16]
        self.embedded[name] = KINDS[path.suffix], base64.b64encode(content).decode()
        return name


def page(cells: Sequence[Cell], title: str, line: str, out: Path) -> str:
    """The page of those cells that are done.

    Args:
        line: the command that made it.
        out: the folder that it will lie in, from which its links lead to the .ply files.
    """
    done = [cell for cell in cells if cell.record_file.exists()]
    records = {cell: read_record(cell.record_file) for cell in done}
    files, by_edit = Files(), {}
    for cell in done:
        by_edit.setdefault(cell.edit, []).append(_card(cell, records[cell], files, out))
    if max(map(len, by_edit.values())) == 1:  # prompts themselves are what is compared
        by_edit = {None: [card for (card,) in by_edit.values()]}
    sections = ""
    for edit, cards in by_edit.items():
        heading = "" if edit is None else f"<h2>{html.escape(prompts_of(edit))}</h2>\n"
        sections += f"{heading}<div class=edits>{''.join(cards)}</div>\n"
    missing = [f"{cell.edit.name}, {short(cell.method)}, seed {cell.seed}" for cell in cells if cell not in records]
    judged = _kept_of(done[0])
    views = str(judged.get("over", HELD_OUT))  # which galleries of earlier versions do not say
    head, rows = _table(records)
    return Template((Path(__file__).parent / "gallery.html").read_text(encoding="utf8")).substitute(
        title=html.escape(title),
        about=html.escape(_about(done)),
        missing=f"<p>Not done: {html.escape('; '.join(missing))}.</p>\n" if missing else "",
        sections=sections,
        head=head,
        rows=rows,
        formulas="".join(
            f"<dt>{html.escape(m.name)}</dt><dd>{html.escape(m.formula)}; over {html.escape(m.over or views)}</dd>\n"
            for m in METRICS.values()
        ),
        clip=html.escape(str(judged.get("clip"))),
        distance=html.escape(str(judged.get("distance"))),
        line=html.escape(line),
        files=json.dumps(files.embedded),
    )


def prompts_of(edit: Edit) -> str:
    """What is asked for, as a heading."""
    source, target = edit.source_prompt, edit.target_prompt
    return f"“{source}” → “{target}”" if source else f"“{target}”"


def _about(cells: Sequence[Cell]) -> str:
    benchmark = cells[0].benchmark
    assert isinstance(benchmark, OwnRun)
    prompts = len({cell.edit for cell in cells})
    count = f"{len(cells)} edit{'s' * (len(cells) > 1)} by {prompts} prompt{'s' * (prompts > 1)}"
    return f"{count} of {Path(benchmark.settings.run).parent}, by the prior {benchmark.settings.prior}."


def _kept_of(cell: Cell) -> dict[str, Any]:
    return read_json(cell.folder / LOOK, dict, "The record", f"remove {cell.record_file}, and run the same line again")


def _card(cell: Cell, record: dict[str, Any], files: Files, out: Path) -> str:
    """One edit."""
    name = html.escape(f"{short(cell.method)}, seed {cell.seed}")
    film = [files.add(path) for path in (cell.scene_folder / BEFORE, cell.folder / AFTER)]
    video = "<video data-file={} muted loop playsinline class={}></video>"
    sliders = _slider("".join(video.format(file, side) for file, side in zip(film, SIDES, strict=True)), "film")
    stills = ""
    for view in _kept_of(cell).get("stills", []):
        pair = [files.add(cell.folder / STILLS / side / f"{view}.png") for side in SIDES]
        images = (f"<img data-file={file} alt={side} class={side}>" for file, side in zip(pair, SIDES, strict=True))
        stills += _slider("".join(images), f"view {view}", labels=False)
    values = {METRICS[key].name: record["metrics"][key] for key in ON_A_CARD if key in record["metrics"]}
    numbers = "".join(f"<dt>{html.escape(what)}</dt><dd>{value:.4g}</dd>" for what, value in values.items())
    return (
        f"<article class=edit><h3>“{html.escape(cell.edit.target_prompt)}” <small>{name}</small></h3>{sliders}"
        f"<div class=stills>{stills}</div>\n<dl>{numbers}</dl>\n"
        f"<p>{_take_away(cell, out)}</p>\n<details><summary>Settings</summary>"
        f"<dl>{_settings(cell, record)}</dl></details>"
        f"<details><summary>To repeat it</summary><pre>{html.escape(chr(10).join(lines_of(cell)))}</pre></details>"
        "</article>\n"
    )


SIDES = ("before", "after")


def _slider(two: str, what: str, labels: bool = True) -> str:
    """Two elements over each other, and what shows more of one or the other."""
    said = "<b>before</b><b>after</b>" if labels else ""
    return (
        f"<div class=slider style='--at:50%'>{two}{said}"
        f"<input type=range min=0 max=100 step=any value=50 aria-label='{html.escape(what)}, before and after'></div>"
    )


def _take_away(cell: Cell, out: Path) -> str:
    """A link to the scene as a file, or what makes one."""
    splats = cell.folder / SPLATS
    if splats.exists():
        size = splats.stat().st_size / 2**20
        return f"<a href='{quote(splats.relative_to(out).as_posix())}'>{SPLATS}</a> ({size:.1f} MB)"
    export = shlex.join(["pds", "render", str(made_by(cell)), "--export", "--paths", "--no-held-out"])
    return f"As a file: <code>{html.escape(export)}</code>"


def _settings(cell: Cell, record: dict[str, Any]) -> str:
    """What the edit ran with, as its own run has kept it; of a chain, its last link."""
    run = read_run(made_by(cell) / "config.yml")
    pipeline = run.config["pipeline"]
    said: dict[str, Any] = {"method": run.method, "run": run.folder, "steps": run.steps}
    said |= {name: pipeline[name] for name in ("prior", "by", "resolution") if pipeline.get(name) is not None}
    group = pipeline.get("run")
    if isinstance(group, dict) and group.get("followed"):
        said["recipe"] = group["followed"]
    objective = pipeline.get("objective")
    if isinstance(objective, Settings):
        said["objective"] = objective.kind.rpartition(".")[2]
        said |= dict(objective)
    said |= {"seed": cell.seed, "seconds": record["seconds"], "peak memory, MB": record["peak_memory_mb"]}
    said["versions"] = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in said.items())


def _table(records: dict[Cell, dict[str, Any]]) -> tuple[str, str]:
    """Head and rows: an edit to a row, a number to a column, the best of several edits by the same prompts in bold."""
    keys = [key for key in METRICS if any(key in record["metrics"] for record in records.values())]
    head = "".join(f"<th>{html.escape(METRICS[key].name)}{_arrow(METRICS[key].better)}</th>" for key in keys)
    rows = ""
    for cell, record in records.items():
        rivals = [other["metrics"] for of, other in records.items() if of.edit == cell.edit]
        name = html.escape(f"{cell.edit.name}, {short(cell.method)}, seed {cell.seed}")
        rows += f"<tr><td>{name}</td>{''.join(_entry(key, record['metrics'], rivals) for key in keys)}</tr>\n"
    return head, rows


def _arrow(better: str) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(better, "")


def _entry(key: str, own: dict[str, float], rivals: Sequence[dict[str, float]]) -> str:
    if key not in own:
        return "<td>not measured</td>"
    values, better = [metrics[key] for metrics in rivals if key in metrics], METRICS[key].better
    is_best = len(values) > 1 and bool(better) and own[key] == (max if better == "higher" else min)(values)
    text = f"{own[key]:.4g}"
    return f"<td>{f'<b>{text}</b>' if is_best else text}</td>"
