"""The edit benchmark: every method on every edit of a suite, each against the ground truth of the edited scene.

    DIR/scenes/EDIT.SEED/          the two scenes and the reconstruction that all methods share
    DIR/cells/EDIT.METHOD.SEED/    one method's run and contact sheet, and record.json once it is done
    DIR/results.json, table.md …   assembled from the records

A cell is done when its record is there: an interrupted benchmark goes on where it was, several processes or machines
can share a folder, and a cell that failed is tried again. Three rows anchor the table:

    nothing      the source as it is
    ceiling      the edited scene reconstructed from its own photographs, with as many steps as source and edit had
    regenerate   pnr-edit with η = 1 everywhere: a new scene, for which the source is only a camera path

Captures have no known answer: they have no ceiling, and are measured against their source and prompts.
"""

import ast
import contextlib
import copy
import hashlib
import importlib.metadata
import io
import json
import math
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

from pds_nerfstudio.children import end_with_parent
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation import capture, flat, trial
from pds_nerfstudio.evaluation.capture import CaptureComparison, CaptureSettings
from pds_nerfstudio.evaluation.report import json_number
from pds_nerfstudio.evaluation.suite import CaptureEdit, Suite
from pds_nerfstudio.files import read_json, write_whole
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pictures import save_image
from pds_nerfstudio.pipelines.distillation import DistillationConfig
from pds_nerfstudio.pipelines.settings import change
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import ToyEdit

NOTHING, CEILING, REGENERATE = "nothing", "ceiling", "regenerate"
Setting = trial.Family | Literal["2d"]
ANCHORS = (NOTHING, CEILING, REGENERATE)
VIEW, SHOWN = "view.png", 0
"""A cell's picture in the wall, and which held-out view it is."""
WORDS = {"True": True, "False": False, "None": None}
LONGEST_NAME = 130
"""Bytes of a folder's name that a method with its settings may take."""
PACKAGES = ("torch", "nerfstudio", "diffusers", "peft", "gsplat")


@dataclass(frozen=True)
class Cell:
    """One method on one edit with one seed."""

    suite: str
    edit: ToyEdit | CaptureEdit
    method: str
    family: Setting
    seed: int
    settings: trial.TrialSettings | CaptureSettings
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

    def describe(self) -> dict[str, Any]:
        """What the cell is, without what it gave."""
        return {
            "suite": self.suite,
            "scene": self.edit.source_prompt,
            "edit": self.edit.name,
            "kind": self.edit.kind,
            "method": self.method,
            "family": self.family,
            "seed": self.seed,
            "settings": asdict(self.settings),
        }


def plan_cells(
    suite: Suite,
    methods: Sequence[str],
    family: Setting,
    seeds: int,
    out: Path,
    settings: trial.TrialSettings | CaptureSettings,
) -> list[Cell]:
    """Every cell, one seed after the other, anchors first.

    Raises:
        UserError: a method is unknown or of another family, captures are to be edited in 2d, or two share a name.
    """
    suffix = "-splat" * (family == "splatfacto")
    known = [name.removesuffix(suffix) for name in METHODS if name.endswith("-edit" + suffix)]
    if family == "2d":  # no scene to perturb
        known = flat_methods()
        methods = [method for method in methods if method != REGENERATE]
    if suite.of_captures:
        methods = [method for method in methods if method != CEILING]
        _check_captures(suite, family)
    for text in methods:
        method, changes = read_variant(text)
        if text not in ANCHORS and method not in known:
            raise UserError(f"There is no method {text!r}: choose among {', '.join([*ANCHORS, *known])}.")
        for name, value in changes.items():
            change(copy.deepcopy(METHODS[method + suffix].config), name, value)
    if seeds < 1:
        raise UserError(f"--seeds {seeds} leaves nothing to run: give at least 1.")
    ordered = [*(name for name in ANCHORS if name in methods), *(name for name in methods if name not in ANCHORS)]
    return [
        Cell(suite.name, edit, method, family, seed, settings, out)
        for seed in range(seeds)
        for edit in suite.edits
        for method in ordered
    ]


def _check_captures(suite: Suite, family: Setting) -> None:
    if family == "2d":
        raise UserError("Captures have no --family 2d: choose splatfacto or nerfacto, or use `pds pie-bench`.")
    folders = {edit.data.resolve() for edit in suite.edits if isinstance(edit, CaptureEdit)}
    for folder in folders:
        if other := next((f for f in folders if f != folder and f.name == folder.name), None):
            raise UserError(f"{folder} and {other} have one name, by which their reconstructions are kept: rename one.")


def check_records(cells: Iterable[Cell]) -> None:
    """Make sure that what is there already is what would be run.

    Raises:
        UserError: a record was made with other settings, or of another edit of that name.
    """
    for cell in cells:
        if not cell.record_file.exists():
            continue
        record = read_record(cell.record_file)
        wanted = json.loads(json.dumps(cell.describe()))
        if other := [name for name, value in wanted.items() if record.get(name) != value]:
            raise UserError(
                f"{cell.record_file} was made with another {other[0]} ({record.get(other[0])} instead of "
                f"{wanted[other[0]]}): give another --out, or remove it."
            )


def flat_methods() -> list[str]:
    """Methods that are their objective alone: they neither perturb a scene nor replace its images."""
    edits = [name for name in METHODS if name.endswith("-edit")]
    return [name for name in edits if type(METHODS[name].config.pipeline) is DistillationConfig]


def read_variant(text: str) -> tuple[str, dict[str, Any]]:
    """A method and the settings that it is given in brackets: "piva-edit[pipeline.objective.regularisation=0.8]".

    Several settings stand between commas; their names are those of `ns-train`'s flags.

    Raises:
        UserError: the brackets cannot be read.
    """
    method, bracket, rest = text.partition("[")
    pairs = [pair.partition("=") for pair in rest.removesuffix("]").split(",")] if bracket else []
    if (bracket and not rest.endswith("]")) or any(not (name and equals) for name, equals, _ in pairs):
        raise UserError(f"The method {text!r} cannot be read: write METHOD[NAME=VALUE,NAME=VALUE].")
    return method, {name.strip(): _value(text) for name, _, text in pairs}


def _value(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    if (word := text.strip().capitalize()) in WORDS:
        return WORDS[word]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()


def prepare(cell: Cell) -> Path:
    """The scenes and the reconstruction of a cell, made once; `config.yml` of the latter."""
    folder = cell.scene_folder
    finished = folder / "source.json"
    if not finished.exists():
        with quietly(folder / "log.txt"):
            data = folder / "scene" / "source"
            if isinstance(cell.edit, CaptureEdit):
                data = cell.edit.data
            else:
                write_edit(cell.edit, folder / "scene", seed=cell.seed)
            run = None
            if cell.family != "2d":
                steps = cell.settings.reconstruction_steps
                run = _way(cell).reconstruct(cell.family, data, folder, steps, cell.seed)
        write_json(finished, {"config": str(run)})
    remedy = f"remove {folder}, and run the same line again"
    config = read_json(finished, dict, "The record", remedy).get("config")
    if not isinstance(config, str):
        raise UserError(f"The record {finished} is damaged (it names no run): {remedy}.")
    return Path(config)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run and measure one cell; its record, which is also written."""
    source = prepare(cell)
    forget_peak_memory()
    start = time.perf_counter()
    with quietly(cell.folder / "log.txt"):
        if cell.family == "2d":
            comparison = edit_pictures(cell)
            seconds = time.perf_counter() - start
        else:
            edited = edit_of(cell, cell.family, source)
            seconds = time.perf_counter() - start
            comparison = compare(cell, source, edited)
        comparison.sheet(cell.folder / "sheet.png")
        save_image(comparison.edited[SHOWN], cell.folder / VIEW)
    record = cell.describe() | {
        "metrics": {name: json_number(value) for name, value in comparison.numbers.items()},
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_memory() / 2**20),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    write_json(cell.record_file, record)
    return read_record(cell.record_file)


def edit_pictures(cell: Cell) -> trial.Comparison:
    """A cell in two dimensions."""
    edit, settings, scene = cell.edit, cell.settings, cell.scene_folder / "scene"
    assert isinstance(edit, ToyEdit)
    assert isinstance(settings, trial.TrialSettings)
    if cell.method == CEILING:
        return flat.ceiling(edit, scene)
    method, changes = (None, {}) if cell.method == NOTHING else read_variant(cell.method)
    return flat.run(method, edit, scene, settings, cell.seed, changes)


def edit_of(cell: Cell, family: trial.Family, source: Path) -> Path:
    """`config.yml` of what the cell's method makes of the source."""
    suffix = "-splat" * (family == "splatfacto")
    if cell.method == NOTHING:
        return source
    if cell.method == CEILING:
        assert isinstance(cell.settings, trial.TrialSettings)
        steps = cell.settings.reconstruction_steps + cell.settings.edit_steps
        return trial.reconstruct(family, cell.scene_folder / "scene" / "target", cell.folder, steps, cell.seed)
    method, changes = read_variant(cell.method)
    if cell.method == REGENERATE:
        method = "pnr-edit"
        settings_of = {"eta": 1.0, "eta_opacity": 1.0, "eta_colour": 1.0, "perturb": "everywhere", "refine_steps": 0}
        changes = {f"pipeline.{name}": value for name, value in settings_of.items()}
    return _way(cell).run_edit(method + suffix, source, cell.edit, cell.folder, cell.settings, cell.seed, changes)


def compare(cell: Cell, source: Path, edited: Path) -> trial.Comparison | CaptureComparison:
    """What the cell's edit made of its source, against the truth where it is known."""
    if isinstance(cell.edit, CaptureEdit):
        assert isinstance(cell.settings, CaptureSettings)
        return capture.compare(cell.edit, source, edited, cell.settings)
    return trial.compare(cell.edit, cell.scene_folder / "scene", source, edited)


def _way(cell: Cell) -> Any:
    """How scenes of the cell's kind are reconstructed and edited."""
    return capture if isinstance(cell.edit, CaptureEdit) else trial


def run_all(cells: Iterable[Cell], workers: int) -> Iterator[tuple[Cell, dict[str, Any] | str]]:
    """Run what is not done, each worker in a process of its own; yields records, or what went wrong, as they come.

    A reconstruction that several cells need is made before any of them runs. A process that dies (for want of memory,
    say) fails its cell and is replaced.
    """
    waiting = [cell for cell in cells if not cell.record_file.exists()]
    firsts = {cell.scene_folder: cell for cell in reversed(waiting)}
    for first, outcome in _each(prepare, list(firsts.values()), workers):
        if isinstance(outcome, str):
            failed = [cell for cell in waiting if cell.scene_folder == first.scene_folder]
            waiting = [cell for cell in waiting if cell not in failed]
            yield from ((cell, outcome) for cell in failed)
    yield from _each(run_cell, waiting, workers)


def _each(task: Any, cells: Sequence[Cell], workers: int) -> Iterator[tuple[Cell, Any]]:
    """`task` of every cell, as they finish; each thread has one process, so that it is known whose cell killed it."""
    processes: dict[int, ProcessPoolExecutor] = {}

    def in_its_process(cell: Cell) -> Any:
        thread = threading.get_ident()
        if thread not in processes:
            processes[thread] = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent)
        try:
            return processes[thread].submit(_guarded, task, cell).result()
        except BrokenProcessPool:
            processes.pop(thread).shutdown()
            return "its process died, perhaps for want of memory"

    threads = ThreadPoolExecutor(workers)
    futures = {threads.submit(in_its_process, cell): cell for cell in cells}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        threads.shutdown(cancel_futures=True)
        for process in processes.values():
            process.shutdown()


def _guarded(task: Any, cell: Cell) -> Any:
    """A task's result, or in one line why there is none; the whole story is in the cell's log."""
    try:
        return task(cell)
    except (Exception, SystemExit) as error:
        cell.folder.mkdir(parents=True, exist_ok=True)
        with (cell.folder / "log.txt").open("a") as log:
            traceback.print_exc(file=log)
        said = error.__cause__ if isinstance(error, SystemExit) and error.__cause__ is not None else error
        return (str(said).splitlines() or [type(said).__name__])[0]


@contextlib.contextmanager
def quietly(log: Path) -> Iterator[None]:
    """What is printed in this block goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(io.StringIO()):
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
