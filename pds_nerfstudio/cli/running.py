"""How commands run cells: the flags that they share, and the progress that they show."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.ranges import check_ranges
from pds_nerfstudio.text import visible

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.cells import Cell, Each


@dataclass
class Running:
    """Where cells run, and which of them."""

    workers: Annotated[int, Ge(1), Le(1024)] = 1
    """Number of processes that run at once. Each needs the memory of one edit. With several GPUs, give each process
    one."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1"
    """Run every N-th edit only, starting from the I-th, counted from 0: for one job of a job array. By default all are
    run and summed up."""

    cluster: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Run the edits on a Ray cluster instead of in processes here: HOST:PORT of its head, auto for the cluster that
    this machine belongs to, or local to start one for this command alone. Each edit takes one GPU, or a CPU where there
    are none."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cluster is not None and self.workers > 1:
            raise UserError(f"--workers {self.workers} are of this machine, and --cluster has its own: leave one out.")
        index, _, count = self.shard.partition("/")
        if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise UserError(f"--shard {self.shard} is not I/N with 0 <= I < N, such as 0/4.")

    def require_cluster(self) -> None:
        """Refuse a cluster that is not there, before anything is loaded."""
        if self.cluster is not None:
            from pds_nerfstudio.evaluation.cluster import require_cluster

            require_cluster(self.cluster)

    @property
    def is_shard(self) -> bool:
        """Whether other lines run other cells, so that nothing can be summed up yet."""
        return self.shard.partition("/")[2] != "1"

    def share_of(self, cells: "Sequence[Cell]") -> "list[Cell]":
        """The cells that this line is to run."""
        index, _, count = self.shard.partition("/")
        return list(cells[int(index) :: int(count)])

    def run(
        self, cells: "Sequence[Cell]", console: Console, say: Callable[[dict[str, Any]], str]
    ) -> list[tuple[str, str]]:
        """Run the cells that are not done, each in a process of its own.

        Args:
            say: a record in a few words.

        Returns:
            what failed, and why.
        """
        if not cells:
            return []
        from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        from pds_nerfstudio.evaluation.cells import run_all

        failures = []
        columns = *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), TimeElapsedColumn()
        with self._each() as each, Progress(*columns, console=console) as progress:
            done = sum(cell.record_file.exists() for cell in cells)
            task = progress.add_task("cells", total=len(cells), completed=done)
            for cell, outcome in run_all(cells, each):
                name = f"{cell.edit.name}, {cell.method}, seed {cell.seed}"
                if isinstance(outcome, str):
                    failures.append((name, outcome))
                    progress.console.print(visible(f"{name}: {outcome}"), style="red", markup=False)
                else:
                    progress.console.print(f"{name}: {say(outcome)}", markup=False)
                progress.advance(task)
        return failures

    @contextmanager
    def _each(self) -> "Iterator[Each]":
        if self.cluster is not None:
            from pds_nerfstudio.evaluation.cluster import cluster

            with cluster(self.cluster) as each:
                yield each
            return
        from pds_nerfstudio.evaluation.workers import each

        yield partial(each, workers=self.workers)


def refuse_failures(failures: Sequence[tuple[str, str]], cells: int) -> None:
    """Raise UserError if something failed of so many cells."""
    if failures:
        name, why = failures[0]
        raise UserError(
            f"{len(failures)} of {cells} cells failed, the first is {name} ({why}); their logs are beside them. "
            "Run the same line again to try them once more."
        )
