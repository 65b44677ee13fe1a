"""`pds runs`: every run below a folder, edits below what they were made of, how far each is, and how to go on."""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from pds_nerfstudio.alive import is_running
from pds_nerfstudio.cli.edit_record import call_in
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.moments import FOLDER, read_moments
from pds_nerfstudio.next_steps import NextStep, after_edit, after_reconstruction, resuming, say_next, step
from pds_nerfstudio.runs import LATEST, Run, read_run, result_of_edit, runs_below
from pds_nerfstudio.text import in_rich, printable, visible

RESUMABLE = "can be resumed"


@dataclass
class Runs:
    """List runs and edits: where each came from, its prompts, its progress, and whether it can be continued.

    Edits are listed below the run that they started from. The run that was written last comes last, with the commands
    that can use it.
    """

    outputs: tyro.conf.Positional[Path] = Path("outputs")
    """The folder to look in, or a run's own."""
    containing: Annotated[str, tyro.conf.arg(metavar="TEXT")] = ""
    """List only runs whose path, method or prompts contain this text."""
    json: bool = False
    """Print JSON instead of a page."""

    def run(self) -> None:
        """Look, and print."""
        if not self.outputs.is_dir():
            raise UserError(f"There is no folder {self.outputs}: name the one that runs go to (--output-dir).")
        found, broken = self._read()
        if self.json:
            print(json.dumps([record(run, found) for run in found], indent=2))
            for error in broken:
                print(printable(error), file=sys.stderr)
            return
        console = Console(soft_wrap=True, highlight=False)
        for depth, run in in_order(found):
            self._show(console, depth, run, state_of(run, found))
        for error in broken:
            console.print(f"[yellow]{in_rich(error)}")
        if not found:
            what = f" that holds {self.containing!r}" if self.containing else ""
            console.print(printable(f"There is no run{what} below {self.outputs}."), markup=False)
            begun, make = call_in(self.outputs), ("ns-train", "source-splatfacto", "--data", "DATA")
            first = step("begin the edit again", *shlex.split(begun)) if begun else step("make one", *make)
            say_next(console, [first])
            return
        last = max(found, key=lambda run: run.touched)
        link = self.outputs / LATEST
        also = link if link.is_symlink() and link.resolve() == last.folder.resolve() else None
        console.print()
        console.print(printable(f"Last written to: {last.folder}{f' ({also})' if also else ''}"), markup=False)
        usable = last if next_of(last) else max(found, key=lambda run: (bool(next_of(run)), run.touched))
        say_next(console, next_of(usable), "Next:" if usable is last else f"Next, with {printable(usable.folder)}:")

    def _read(self) -> tuple[list[Run], list[UserError]]:
        found, broken = [], []
        for path in runs_below(self.outputs):
            try:
                run = read_run(path)
            except UserError as error:
                broken.append(error)
                continue
            if self.containing.lower() in f"{run.folder} {run.method} {' '.join(run.prompts)}".lower():
                found.append(run)
        return found, broken

    @staticmethod
    def _show(console: Console, depth: int, run: Run, state: str) -> None:
        indent, (source, target) = "  " * depth, run.prompts
        lines = [f"{run.method}, {run.steps_done:,} of {run.steps:,} steps, {state}"]
        lines += [f"“{source}” → “{target}”"] if target else []
        lines += [f"of {run.base}"] if run.base is not None and depth == 0 else []
        lines += [f"of the photographs in {run.data}"] if run.base is None and run.data is not None else []
        console.print(indent + printable(run.folder), style="bold cyan", markup=False)
        lines += [f"to go on: {shlex.join(going_on(run).command)}"] if state == RESUMABLE else []
        for line in lines:
            console.print(f"{indent}  {visible(line)}", markup=False)


def in_order(runs: Sequence[Run]) -> Iterator[tuple[int, Run]]:
    """Every run with its depth, edits behind what they began with, families in the order in which they were last
    written to."""
    by_folder = {run.folder.resolve(): run for run in runs}
    edits: dict[Path, list[Run]] = {}
    roots = []
    for run in runs:
        base = None if run.base is None else run.base.resolve()
        if base in by_folder and base != run.folder.resolve():
            edits.setdefault(base, []).append(run)
        else:
            roots.append(run)

    def last(run: Run) -> float:
        return max([run.touched, *map(last, edits.get(run.folder.resolve(), ()))])

    def below(run: Run, depth: int) -> Iterator[tuple[int, Run]]:
        yield depth, run
        for edit in sorted(edits.get(run.folder.resolve(), ()), key=last):
            yield from below(edit, depth + 1)

    for root in sorted(roots, key=last):
        yield from below(root, 0)


def obstacle_of(run: Run, runs: Sequence[Run]) -> str | None:
    """Why a run needs no resuming, or cannot be resumed: what it says itself, or that one of these went on from it."""
    if obstacle := run.obstacle():
        return obstacle
    later = next((other for other in runs if other.steps_done > run.steps_done and other.goes_on_with(run)), None)
    return None if later is None else f"went on in {later.folder}"


def state_of(run: Run, runs: Sequence[Run]) -> str:
    """The same as it is shown; of an edit that is running also how far its history is."""
    state, reached = obstacle_of(run, runs) or RESUMABLE, 0
    if is_running(run.folder):
        with suppress(UserError):
            reached = max((moment.step for moment in read_moments(run.folder / FOLDER).taken.values()), default=0)
    return f"{state}, beyond step {reached:,}" if reached > run.steps_done else state


def next_of(run: Run) -> list[NextStep]:
    """What to do with a run."""
    steps = [] if run.obstacle() is not None else [going_on(run)]
    if not run.checkpoints or (run.family is None and not run.is_edit):
        return steps
    if not run.is_edit:
        return steps + after_reconstruction(run.folder, run.data)
    whole = folder_of_edit(run)
    return steps + after_edit(run.folder, whole if whole is not None and result_of_edit(whole) == run.folder else None)


def folder_of_edit(run: Run) -> Path | None:
    """The folder of the `pds edit` that a run is a stage of."""
    above = run.folder.parent.parent.parent  # OUT/edit/METHOD/run, or run.1
    return above if run.folder.name.partition(".")[0] == "run" and call_in(above) else None


def going_on(run: Run) -> NextStep:
    """What resumes a run: of a stage of `pds edit` that command itself, which then goes on with the other stages."""
    whole = folder_of_edit(run)
    if whole is None:
        return resuming(run.method, run.folder, run.is_edit)
    return step("go on", *shlex.split(call_in(whole)))


def record(run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    """A run as `--json` has it."""
    obstacle = obstacle_of(run, runs)
    return {
        "folder": str(run.folder),
        "method": run.method,
        "family": run.family,
        "base": None if run.base is None else str(run.base),
        "src_prompt": run.prompts[0],
        "tgt_prompt": run.prompts[1],
        "steps_done": run.steps_done,
        "steps": run.steps,
        "finished": run.steps_done >= run.steps,
        "running": is_running(run.folder),
        "can_be_resumed": obstacle is None,
        "obstacle": obstacle,
    }
