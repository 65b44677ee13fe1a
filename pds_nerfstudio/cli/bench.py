"""`pds bench`: every method on every edit of a suite, in one table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.cli.running import Running, refuse_failures
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_writable, write_whole
from pds_nerfstudio.next_steps import say_next, step
from pds_nerfstudio.ranges import Steps, check_ranges
from pds_nerfstudio.text import visible

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.cells import Cell
    from pds_nerfstudio.evaluation.suite import Suite

COMMON = ("nothing", "ceiling", "regenerate", "sds-edit", "dds-edit", "pds-edit", "pnr-edit")
"""Rows of a suite that names none."""
SETTINGS = ("reconstruction_steps", "edit_steps", "prior")
"""What may be said in place of the benchmark's own settings."""


@dataclass
class Bench:
    """Run a suite of edits with several methods, on toybox scenes, whose right answer is known, or on captures.

    Finished edits are kept: run the same line again to continue, or to print the table again.
    """

    suite: Path
    """A YAML file: suites/dev.yaml, suites/real.yaml or your own."""
    methods: tuple[str, ...] = ()
    """Methods, named without -splat, and the rows to compare them with: nothing, ceiling, prior-0.4, prior-0.8 and
    regenerate. By default, those of the suite. Write a method's settings in brackets:
    'piva-edit[pipeline.objective.regularisation=0.8]'. In a chain, 'pnr-edit+sdedit-refine', the second method starts
    from the result of the first."""
    family: Literal["splatfacto", "nerfacto", "2d"] = "splatfacto"
    """What the scenes are reconstructed as. 2d reconstructs none and edits the held-out photographs instead."""
    edits: tuple[str, ...] = ()
    """Run only the edits of the suite with these names."""
    seeds: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of seeds. Every edit is run once with each of the seeds 0, 1, 2 and so on."""
    out: Path = Path("outputs/bench")
    """Folder for all results."""
    running: Annotated[Running, tyro.conf.arg(name="")] = field(default_factory=Running)
    only_table: bool = False
    """Run no edits; only print the table of finished ones."""
    reconstruction_steps: Steps | None = None
    """Steps of each reconstruction; by default what toybox scenes of this family need, or the method's own on
    captures."""
    edit_steps: Steps | None = None
    """Steps of each edit; by default those of the prior's recipe on toybox scenes (of 2d 500), or the method's own on
    captures."""
    prior: str | None = None
    """The diffusion model that edits captures; by default the methods' own. Toybox scenes are edited with toybox's."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Run what is missing, then write results.json, table.md, table.html, pareto.png and wall.png."""
        from pds_nerfstudio.evaluation.suite import read_suite

        self.running.require_cluster()
        suite = read_suite(self.suite)
        if unknown := set(self.edits) - {edit.name for edit in suite.edits}:
            raise UserError(f"The suite {self.suite} has no edit {', '.join(sorted(unknown))}: leave --edits out.")
        if self.edits:
            suite = replace(suite, edits=tuple(edit for edit in suite.edits if edit.name in self.edits))
        methods = self.methods or suite.methods or COMMON
        from pds_nerfstudio.evaluation import cells as engine
        from pds_nerfstudio.evaluation.bench import benchmark_of
        from pds_nerfstudio.evaluation.summary import sentence

        given = {name: getattr(self, name) for name in SETTINGS}
        benchmark = benchmark_of(suite, self.family, given)
        out = (self.out / suite.name / self.family).resolve()  # runs remember where they are
        cells = engine.plan_cells(suite, methods, benchmark, self.seeds, out)
        engine.check_records(cells)
        require_writable(self.out)
        console = Console(soft_wrap=True, highlight=False)
        for method in methods:
            if not any(cell.method == method for cell in cells):
                console.print(f"{visible(method)} is left out: it has no meaning for these scenes.", markup=False)
        mine = [] if self.only_table else self.running.share_of(cells)
        failures = self.running.run(mine, console, sentence)
        if not self.running.is_shard:
            self._summarise(suite, cells, out, console)
        refuse_failures(failures, len(mine))
        self._say_next(cells, console)

    def _summarise(self, suite: "Suite", cells: "list[Cell]", out: Path, console: Console) -> None:
        from pds_nerfstudio.evaluation import summary
        from pds_nerfstudio.evaluation.records import read_raw_record, read_record, write_json

        done = [cell.record_file for cell in cells if cell.record_file.exists()]
        if not done:
            return
        write_json(out / "results.json", [read_raw_record(path) for path in done])
        records = [read_record(path) for path in done]
        outside = summary.outside_the_anchors(records)
        text = summary.table(records, outside)
        write_whole(out / "table.md", text)
        write_whole(out / "table.html", summary.page(suite.name, records, outside))
        summary.plot(records, out / "pareto.png")
        summary.wall([cell for cell in cells if cell.record_file.exists()], out / "wall.png")
        console.print(text, markup=False)
        for name in ("table.md", "table.html", "results.json", "pareto.png", "wall.png"):
            console.print(out / name)

    def _say_next(self, cells: "Sequence[Cell]", console: Console) -> None:
        """Name what is left to do: other shards, the runs that were made, more seeds."""
        if self.running.is_shard:
            say_next(console, [step("when all shards have ended: the table", *self._line(self.seeds))])
            return
        made = next((cell.folder for cell in cells if cell.links and cell.record_file.exists()), None)
        steps = (
            [] if made is None or self.family == "2d" else [step("look at what a cell has made", "pds", "runs", made)]
        )
        say_next(console, [*steps, step("one seed more", *self._line(self.seeds + 1))])

    def _line(self, seeds: int) -> list[object]:
        """This command with so many seeds, without what says where it runs."""
        line: list[object] = ["pds", "bench", "--suite", self.suite, "--family", self.family, "--seeds", seeds]
        for name in ("methods", "edits"):
            line += [f"--{name}", *getattr(self, name)] if getattr(self, name) else []
        for name in SETTINGS:
            value = getattr(self, name)
            line += [] if value is None else [f"--{name.replace('_', '-')}", value]
        return [*line, "--out", self.out]
