"""Cells: one edit by one method with one seed each, run once, measured and kept, for `pds bench` and `pds gallery`.

    OUT/scenes/SHARED/             what several cells begin with
    OUT/cells/EDIT.METHOD.SEED/    one cell's run and pictures, and record.json once it is done

A cell is done when its record is there: whoever is interrupted goes on where it was, several processes or machines can
share a folder, and a cell that failed is tried again. A chain of methods begins with what the row of its first links
has made (edited.json there says where it is). What is edited, and how it is judged, is a `Benchmark`'s affair.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.benchmark import Benchmark, Edit
from pds_nerfstudio.evaluation.records import kept_value, read_raw_record, read_record, write_json
from pds_nerfstudio.evaluation.report import json_number
from pds_nerfstudio.evaluation.rows import (
    ANCHORS,
    CEILING,
    KNOWN,
    NOTHING,
    REGENERATE,
    Link,
    beginning,
    of_family,
    read_chain,
)
from pds_nerfstudio.evaluation.suite import Suite
from pds_nerfstudio.files import appended, read_json
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.settings_tree import changed
from pds_nerfstudio.text import choices

AFRESH = "eta=1.0", "eta_opacity=1.0", "eta_colour=1.0", "perturb=everywhere", "refine_steps=0"
MEANINGS = {REGENERATE: f"pnr-edit[{','.join(f'pipeline.{setting}' for setting in AFRESH)}]"}
"""What an anchor is by another name."""
EDITED = "edited.json"
"""In a cell's folder: where its edited scene is, and what making it took."""
LONGEST_NAME = 130
"""Bytes of a folder's name that a method with its settings may take."""
PACKAGES = ("torch", "nerfstudio", "diffusers", "peft", "gsplat")
Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[Any, Any]]]
"""What runs a task of every item, each in a process of its own, and yields the items with their outcomes as they come:
results, or in one line why there is none. `workers.each` does it on this machine, `cluster` on many."""


@dataclass(frozen=True)
class Cell:
    """One row on one edit with one seed."""

    suite: str
    edit: Edit
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
        """Where what it shares with other cells is kept."""
        return self.out / "scenes" / self.benchmark.shared(self.edit, self.seed)

    @property
    def source_file(self) -> Path:
        """Says where the scene is that its edit begins with, and what that was made of."""
        return self.scene_folder / "source.json"

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
            **self.benchmark.describe(self.edit),
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
    before, chain = None, read_chain(text)
    for method, changes in chain:
        known = benchmark.methods(first=before is None)
        if method not in known:
            where = f" to go on with in {text!r}" * (before is not None)
            known = [*ANCHORS * (len(chain) == 1), *known]
            raise UserError(f"There is no method {method!r}{where}: {choices(method, known)}")
        if method == before:
            raise UserError(f"{text!r}: {method} would resume the edit before it: give that one more steps instead.")
        changed(METHODS[of_family(method, benchmark.family)].config, changes)
        before = method


def check_records(cells: Iterable[Cell]) -> None:
    """Make sure that what is there already is what would be run.

    Raises:
        UserError: a record was made with other settings, or of another edit of that name, or a scene of something else.
    """
    cells = list(cells)
    for cell in (row.first(links) for row in cells for links in range(max(1, len(row.links)))):
        wanted = json.loads(json.dumps(cell.describe()))
        for file in (cell.record_file, cell.folder / EDITED):
            if not file.exists():
                continue
            if file == cell.record_file:
                record = read_raw_record(file)
            else:
                record = read_json(file, dict, "The record", "remove it, and run the same line again")
            _refuse_another(file, record, wanted)
    for one in {cell.source_file: cell for cell in cells}.values():
        _check_source(one)


def _refuse_another(file: Path, record: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if other := [name for name, value in wanted.items() if record.get(name) != value]:
        raise UserError(
            f"{file} was made with another {other[0].replace('_', ' ')} ({record.get(other[0])} instead of "
            f"{wanted[other[0]]}): give another --out, or remove it."
        )


def _check_source(cell: Cell) -> None:
    """Raise UserError where the scene that is there was made of something else. Files of 0.1.0 do not say of what."""
    if cell.source_file.exists():
        made_of = read_json(cell.source_file, dict, "The record", "remove it, and run the same line again")
        wanted = cell.benchmark.made_of(cell.edit, cell.seed)
        _refuse_another(cell.source_file, wanted | made_of, wanted)


def prepare(cell: Cell) -> Path:
    """The scene that a cell's edit begins with, made once.

    Raises:
        UserError: the one that is there was made of something else.
    """
    kept = cell.source_file
    _check_source(cell)
    if kept.exists() and (source := Path(kept_value(kept, "config", str))).exists():
        return source
    with quietly(cell.scene_folder / "log.txt"):
        source = cell.benchmark.prepare(cell.edit, cell.scene_folder, cell.seed)
    write_json(kept, {"config": str(source)} | cell.benchmark.made_of(cell.edit, cell.seed))
    return source


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
    if kept.exists() and Path((made := kept_value(kept, "made", dict)).get("scene", "")).is_file():
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
        cell.benchmark.keep(comparison, cell.folder)
    record = cell.describe() | {
        "metrics": {name: json_number(value) for name, value in comparison.numbers.items()},
        "seconds": round(made.seconds, 1),
        "peak_memory_mb": round(max(made.peak_memory, peak_memory()) / 2**20),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    write_json(cell.record_file, record)
    return read_record(cell.record_file)


def run_all(cells: Iterable[Cell], each: Each) -> Iterator[tuple[Cell, dict[str, Any] | str]]:
    """Run what is not done by `each`; yields records, or what went wrong, as they come.

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
        for maker, outcome in each(make if links else prepare, makers):
            if isinstance(outcome, str):
                failed = groups[maker.folder if links else maker.scene_folder]
                waiting = [cell for cell in waiting if cell not in failed]
                yield from ((cell, outcome) for cell in failed)
    yield from each(run_cell, waiting)


@contextlib.contextmanager
def quietly(log: Path) -> Iterator[None]:
    """What is printed in this block goes to a file."""
    with appended(log) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(io.StringIO()):
        yield


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
