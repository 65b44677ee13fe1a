"""The edit benchmark: every method on every edit of a suite, each against the ground truth of the edited scene.

    DIR/scenes/EDIT.SEED/          the two scenes and the reconstruction that all methods share
    DIR/cells/EDIT.METHOD.SEED/    one row's run and contact sheet, and record.json once it is done
    DIR/results.json, table.md …   assembled from the records

A cell is done when its record is there: an interrupted benchmark goes on where it was, several processes or machines
can share a folder, and a cell that failed is tried again. A chain of methods begins with what the row of its first
links has made (edited.json there says where it is). Some rows anchor the table:

    nothing      the source as it is
    ceiling      the edited scene reconstructed from its own photographs, with as many steps as source and edit had
    prior-0.4    its photographs after SDEdit by the prior at this strength: what the prior knows, without any scene
    regenerate   pnr-edit with η = 1 everywhere: a new scene, for which the source is only a camera path

What is edited is one of three kinds of `Benchmark`: `trial.Toy`, `capture.Capture` or `image_trial.ImageTrial`.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.benchmark import Benchmark
from pds_nerfstudio.evaluation.capture import Capture, CaptureSettings
from pds_nerfstudio.evaluation.image_trial import ImageTrial
from pds_nerfstudio.evaluation.report import json_number
from pds_nerfstudio.evaluation.rows import (
    ANCHORS,
    CEILING,
    KNOWN,
    NOTHING,
    REGENERATE,
    Link,
    beginning,
    changed,
    of_family,
    read_chain,
)
from pds_nerfstudio.evaluation.suite import CaptureEdit, Suite
from pds_nerfstudio.evaluation.trial import SETTINGS, Toy
from pds_nerfstudio.evaluation.workers import each
from pds_nerfstudio.files import appended, read_json, write_whole
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pictures import save_image
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.toybox.spec import ToyEdit

AFRESH = "eta=1.0", "eta_opacity=1.0", "eta_colour=1.0", "perturb=everywhere", "refine_steps=0"
MEANINGS = {REGENERATE: f"pnr-edit[{','.join(f'pipeline.{setting}' for setting in AFRESH)}]"}
"""What an anchor is by another name."""
EDITED = "edited.json"
"""In a cell's folder: where its edited scene is, and what making it took."""
VIEW, SHOWN = "view.png", 0
"""A cell's picture in the wall, and which held-out view it is."""
LONGEST_NAME = 130
"""Bytes of a folder's name that a method with its settings may take."""
PACKAGES = ("torch", "nerfstudio", "diffusers", "peft", "gsplat")


def benchmark_of(suite: Suite, family: Family | Literal["2d"], given: Mapping[str, Any]) -> Benchmark:
    """The kind of benchmark that a suite is, with settings other than its own where they are not None.

    Raises:
        UserError: captures are to be edited in 2d.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if suite.of_captures:
        if family == "2d":
            raise UserError("Captures have no --family 2d: choose splatfacto or nerfacto, or use `pds pie-bench`.")
        return Capture(family, replace(CaptureSettings(), **given))
    given.pop("prior", None)  # toybox scenes have toybox's
    settings = replace(SETTINGS[family], **given)
    return ImageTrial(family, settings) if family == "2d" else Toy(family, settings)


@dataclass(frozen=True)
class Cell:
    """One row on one edit with one seed."""

    suite: str
    edit: ToyEdit | CaptureEdit
    method: str
    benchmark: Benchmark
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        """Where its run, sheet and record are kept."""
        return self.out / "cells" / f"{self.edit.name}.{as_file_name(self.method)}.{self.seed}"

    @property
    def scene_folder(self) -> Path:
        """Where what it shares with other methods, and with other edits of the same capture, is kept."""
        scene = self.edit.data.resolve().name if isinstance(self.edit, CaptureEdit) else self.edit.name
        return self.out / "scenes" / f"{scene}.{self.seed}"

    @property
    def record_file(self) -> Path:
        """Written last: its presence means that the cell is done."""
        return self.folder / "record.json"

    @property
    def links(self) -> list[Link]:
        """What is done to the source; nothing for `nothing`, and for the anchors that do not begin with it."""
        return [] if self.method in (NOTHING, CEILING, *KNOWN) else read_chain(MEANINGS.get(self.method, self.method))

    def first(self, links: int) -> "Cell":
        """The cell of its first so many links: itself, where it has no more, or for none."""
        return self if not 0 < links < len(self.links) else replace(self, method=beginning(self.method, links))

    def describe(self) -> dict[str, Any]:
        """What the cell is, without what it gave."""
        return {
            "suite": self.suite,
            "scene": self.edit.source_prompt,
            "edit": self.edit.name,
            "kind": self.edit.kind,
            "method": self.method,
            "family": self.benchmark.family,
            "seed": self.seed,
            "settings": asdict(self.benchmark.settings),
        }


def plan_cells(suite: Suite, methods: Sequence[str], benchmark: Benchmark, seeds: int, out: Path) -> list[Cell]:
    """Every cell, one seed after the other, anchors first.

    Raises:
        UserError: a row cannot be run, or the suite's edits cannot.
    """
    benchmark.check(suite.edits)
    methods = [method for method in methods if method not in ANCHORS or method in benchmark.anchors]
    for text in methods:
        if text not in ANCHORS:
            _check_row(text, benchmark)
    if seeds < 1:
        raise UserError(f"--seeds {seeds} leaves nothing to run: give at least 1.")
    ordered = [*(name for name in ANCHORS if name in methods), *(name for name in methods if name not in ANCHORS)]
    return [
        Cell(suite.name, edit, method, benchmark, seed, out)
        for seed in range(seeds)
        for edit in suite.edits
        for method in ordered
    ]


def _check_row(text: str, benchmark: Benchmark) -> None:
    before = None
    for method, changes in read_chain(text):
        known = benchmark.methods(first=before is None)
        if method not in known:
            where = f" to go on with in {text!r}" * (before is not None)
            known = [*ANCHORS * (before is None), *known]
            raise UserError(f"There is no method {method!r}{where}: choose among {', '.join(known)}.")
        if method == before:
            raise UserError(f"{text!r}: {method} would resume the edit before it: give that one more steps instead.")
        changed(METHODS[of_family(method, benchmark.family)].config, changes)
        before = method


def check_records(cells: Iterable[Cell]) -> None:
    """Make sure that what is there already is what would be run.

    Raises:
        UserError: a record was made with other settings, or of another edit of that name.
    """
    for cell in (row.first(links) for row in cells for links in range(max(1, len(row.links)))):
        wanted = json.loads(json.dumps(cell.describe()))
        for file in (cell.record_file, cell.folder / EDITED):
            if not file.exists():
                continue
            if file == cell.record_file:
                record = read_raw_record(file)
            else:
                record = read_json(file, dict, "The record", "remove it, and run the same line again")
            if other := [name for name, value in wanted.items() if record.get(name) != value]:
                raise UserError(
                    f"{file} was made with another {other[0]} ({record.get(other[0])} instead of {wanted[other[0]]}): "
                    "give another --out, or remove it."
                )


def prepare(cell: Cell) -> Path:
    """The scene that a cell's edit begins with, made once."""
    kept = cell.scene_folder / "source.json"
    if kept.exists() and (source := Path(_kept(kept, "config", str))).exists():
        return source
    with quietly(cell.scene_folder / "log.txt"):
        source = cell.benchmark.prepare(cell.edit, cell.scene_folder, cell.seed)
    write_json(kept, {"config": str(source)})
    return source


def _kept(file: Path, name: str, kind: type) -> Any:
    """One value of a record of ours. Raises UserError where the record is damaged."""
    remedy = f"remove {file.parent}, and run the same line again"
    value = read_json(file, dict, "The record", remedy).get(name)
    if not isinstance(value, kind):
        raise UserError(f"The record {file} is damaged (it has no {name}): {remedy}.")
    return value


@dataclass(frozen=True)
class Made:
    """What a row made of the source, and what that took; of a chain, all its links together."""

    scene: Path
    seconds: float = 0.0
    peak_memory: int = 0
    """In bytes."""


def make(cell: Cell) -> Made:
    """A cell's edit, made once: for its own row, and for those that go on with it."""
    kept = cell.folder / EDITED
    if kept.exists() and Path((made := _kept(kept, "made", dict)).get("scene", "")).is_file():
        return Made(Path(made["scene"]), made["seconds"], made["peak_memory"])
    if cell.method in (NOTHING, *KNOWN):
        return Made(prepare(cell))
    before = make(cell.first(len(cell.links) - 1)) if len(cell.links) > 1 else Made(prepare(cell))
    forget_peak_memory()
    start = time.perf_counter()
    with quietly(cell.folder / "log.txt"):
        if cell.method == CEILING:
            scene = cell.benchmark.ceiling(cell.scene_folder, cell.folder, cell.seed)
        else:
            method, changes = cell.links[-1]
            scene = cell.benchmark.edit(method, changes, before.scene, cell.edit, cell.folder, cell.seed)
    seconds, peak = before.seconds + time.perf_counter() - start, max(before.peak_memory, peak_memory())
    write_json(kept, cell.describe() | {"made": {"scene": str(scene), "seconds": seconds, "peak_memory": peak}})
    return Made(scene, seconds, peak)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run and measure one cell; its record, which is also written."""
    source, made = prepare(cell), make(cell)
    forget_peak_memory()
    with quietly(cell.folder / "log.txt"):
        if cell.method in KNOWN:
            strength = KNOWN[cell.method]
            comparison = cell.benchmark.known(cell.edit, cell.scene_folder, source, strength, cell.seed)
        else:
            comparison = cell.benchmark.compare(cell.edit, cell.scene_folder, source, made.scene)
        comparison.sheet(cell.folder / "sheet.png")
        save_image(comparison.edited[SHOWN], cell.folder / VIEW)
    record = cell.describe() | {
        "metrics": {name: json_number(value) for name, value in comparison.numbers.items()},
        "seconds": round(made.seconds, 1),
        "peak_memory_mb": round(max(made.peak_memory, peak_memory()) / 2**20),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    write_json(cell.record_file, record)
    return read_record(cell.record_file)


def run_all(cells: Iterable[Cell], workers: int) -> Iterator[tuple[Cell, dict[str, Any] | str]]:
    """Run what is not done, each worker in a process of its own; yields records, or what went wrong, as they come.

    What several cells need is made before any of them runs: reconstructions, then the beginnings of chains, the shorter
    ones first. Cells whose beginning fails fail with it.
    """
    waiting = [cell for cell in cells if not cell.record_file.exists()]
    for links in range(max((len(cell.links) for cell in waiting), default=0) or 1):
        groups: dict[Path, list[Cell]] = {}
        for cell in waiting:
            groups.setdefault(cell.first(links).folder if links else cell.scene_folder, []).append(cell)
        makers = [
            cells[0].first(links) for cells in groups.values() if not links or any(len(c.links) > links for c in cells)
        ]
        for maker, outcome in each(make if links else prepare, makers, workers):
            if isinstance(outcome, str):
                failed = groups[maker.folder if links else maker.scene_folder]
                waiting = [cell for cell in waiting if cell not in failed]
                yield from ((cell, outcome) for cell in failed)
    yield from each(run_cell, waiting, workers)


@contextlib.contextmanager
def quietly(log: Path) -> Iterator[None]:
    """What is printed in this block goes to a file."""
    with appended(log) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(io.StringIO()):
        yield


def write_json(path: Path, content: Any) -> None:
    """JSON, complete or not there at all."""
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A cell's record.

    Raises:
        UserError: it cannot be read.
    """
    return with_numbers(read_raw_record(path))


def read_raw_record(path: Path) -> dict[str, Any]:
    """A cell's record as it is stored.

    Raises:
        UserError: it cannot be read, or lacks what a record has.
    """
    remedy = "remove it, and run the same line again"
    record = read_json(path, dict, "The record", remedy)
    kinds = {"edit": str, "kind": str, "method": str, "seed": int, "metrics": dict}
    if other := [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]:
        raise UserError(f"The record {path} is damaged (its {other[0]} is missing or of another type): {remedy}.")
    for name, value in record["metrics"].items():
        if not (value is None or isinstance(value, int | float) or value in ("inf", "-inf")):
            raise UserError(f"The record {path} is damaged (its {name} is {value!r}, no number): {remedy}.")
    return record


def with_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is stored, with numbers where JSON has "inf" or null."""
    record["metrics"] = {name: math.nan if v is None else float(v) for name, v in record["metrics"].items()}
    return record


def as_file_name(method: str) -> str:
    """A method with its settings as part of a file's name: itself, unless it is long or names a path."""
    encoded = method.encode(errors="surrogateescape")
    plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in method)
    if len(encoded) <= LONGEST_NAME and plain == method and not method.startswith("."):
        return method
    short = plain.lstrip(".").encode(errors="replace")[: LONGEST_NAME - 9].decode(errors="ignore")
    return f"{short}.{hashlib.sha256(encoded).hexdigest()[:8]}"


def forget_peak_memory() -> None:
    """Begin to measure `peak_memory` anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # where the kernel does not allow it the peak is the process's
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Most bytes held since: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
