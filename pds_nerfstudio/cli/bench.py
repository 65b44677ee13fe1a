"""`pds bench`: every method on every edit of a suite, in one table."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Le
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_writable, write_whole
from pds_nerfstudio.ranges import Steps, check_ranges
from pds_nerfstudio.text import visible

COMMON = ("nothing", "ceiling", "regenerate", "sds-edit", "dds-edit", "pds-edit", "pnr-edit")
"""Rows of a suite that names none."""


@dataclass
class Bench:
    """Run a suite of edits by several methods: of toybox scenes, each compared with its known answer, or of captures.

    What is done is kept: run the same line again to go on, or to get the table once more.
    """

    suite: Path
    """A YAML file: suites/dev.yaml, suites/real.yaml or your own."""
    methods: tuple[str, ...] = ()
    """Methods without their -splat, and the anchors nothing, ceiling, prior-0.4, prior-0.8 and regenerate; by default
    the suite's own. A method's settings stand in brackets: 'piva-edit[pipeline.objective.regularisation=0.8]'. In a
    chain, 'pnr-edit+sdedit-refine', the second begins with what the first has made."""
    family: Literal["splatfacto", "nerfacto", "2d"] = "splatfacto"
    """What the scenes are reconstructed as; 2d edits their held-out photographs instead."""
    edits: tuple[str, ...] = ()
    """Run only these edits of the suite, by their names."""
    seeds: Annotated[int, Ge(1), Le(1000)] = 1
    """Every edit is run with seeds 0 … seeds − 1."""
    out: Path = Path("outputs/bench")
    """Folder of everything that is made."""
    workers: Annotated[int, Ge(1), Le(1024)] = 1
    """Processes at once. Each takes the memory of one edit; on a machine of several GPUs give each process its own."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1"
    """Run only every N-th cell, from the I-th on: one line of a job array. Without it, everything is run and
    summed up."""
    only_table: bool = False
    """Run nothing: sum up what is there."""
    reconstruction_steps: Steps | None = None
    """Steps of the reconstructions; by default the toybox trials' own, and the methods' own for captures."""
    edit_steps: Steps | None = None
    """Steps of the edits; by default the toybox trials' own, and the methods' own for captures."""
    prior: str | None = None
    """The diffusion model that edits captures; by default the methods' own. Toybox scenes have toybox's."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Run what is missing, then write results.json, table.md, table.html, pareto.png and wall.png."""
        from pds_nerfstudio.evaluation.suite import read_suite

        suite = read_suite(self.suite)
        if unknown := set(self.edits) - {edit.name for edit in suite.edits}:
            raise UserError(f"The suite {self.suite} has no edit {', '.join(sorted(unknown))}: leave --edits out.")
        if self.edits:
            suite = replace(suite, edits=tuple(edit for edit in suite.edits if edit.name in self.edits))
        methods = self.methods or suite.methods or COMMON
        index, count = self._shard()
        from pds_nerfstudio.evaluation import bench

        given = {name: getattr(self, name) for name in ("reconstruction_steps", "edit_steps", "prior")}
        benchmark = bench.benchmark_of(suite, self.family, given)
        out = (self.out / suite.name / self.family).resolve()  # runs remember where they are
        cells = bench.plan_cells(suite, methods, benchmark, self.seeds, out)
        bench.check_records(cells)
        require_writable(self.out)
        console = Console(soft_wrap=True, highlight=False)
        for method in methods:
            if not any(cell.method == method for cell in cells):
                console.print(f"{visible(method)} is left out: it has no meaning for these scenes.", markup=False)
        mine = [] if self.only_table else cells[index::count]
        failures = self._run(mine, console) if mine else []
        if count == 1:
            self._summarise(suite, cells, out, console)
        if failures:
            raise UserError(
                f"{len(failures)} of {len(mine)} cells failed, the first is {failures[0]}; their logs are beside them. "
                "Run the same line again to try them once more."
            )

    def _shard(self) -> tuple[int, int]:
        index, _, count = self.shard.partition("/")
        if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise UserError(f"--shard {self.shard} is not I/N with 0 <= I < N, such as 0/4.")
        return int(index), int(count)

    def _run(self, cells: list, console: Console) -> list[str]:
        from pds_nerfstudio.evaluation import bench, summary

        failures = []
        columns = (
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as progress:
            done = sum(cell.record_file.exists() for cell in cells)
            task = progress.add_task("cells", total=len(cells), completed=done)
            for cell, outcome in bench.run_all(cells, self.workers):
                name = f"{cell.edit.name}, {cell.method}, seed {cell.seed}"
                if isinstance(outcome, str):
                    failures.append(f"{name} ({outcome})")
                    progress.console.print(visible(f"{name}: {outcome}"), style="red", markup=False)
                else:
                    progress.console.print(f"{name}: {summary.sentence(outcome)}", markup=False)
                progress.advance(task)
        return failures

    def _summarise(self, suite: Any, cells: list, out: Path, console: Console) -> None:
        from pds_nerfstudio.evaluation import bench, summary

        done = [cell.record_file for cell in cells if cell.record_file.exists()]
        if not done:
            return
        bench.write_json(out / "results.json", [bench.read_raw_record(path) for path in done])
        records = [bench.read_record(path) for path in done]
        outside = summary.outside_the_anchors(records)
        text = summary.table(records, outside)
        write_whole(out / "table.md", text)
        write_whole(out / "table.html", summary.page(suite.name, records, outside))
        summary.plot(records, out / "pareto.png")
        summary.wall([cell for cell in cells if cell.record_file.exists()], out / "wall.png")
        console.print(text, markup=False)
        for name in ("table.md", "table.html", "results.json", "pareto.png", "wall.png"):
            console.print(out / name)
