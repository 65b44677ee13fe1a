"""`pds evaluate`: the numbers of one or more edits beside each other, with their formulas."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.errors import OUT_OF_MEMORY, UserError, first_line
from pds_nerfstudio.files import require_own, require_writable
from pds_nerfstudio.next_steps import say_loading, say_next, step
from pds_nerfstudio.ranges import check_ranges
from pds_nerfstudio.runs import behind_latest, place_beside, require_pair
from pds_nerfstudio.text import in_rich

ROOM = 2 << 20
"""Bytes that the reports take at least."""

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.before_after import PairPlan


@dataclass
class Evaluate:
    """Measure edits against the scenes they started from: a table, report.json, and report.html in a single file.

    CLIP and LPIPS are used if their weights are on this machine. What is missing is named, and the rest is measured. So
    it is if one of several runs cannot be measured.
    """

    run_folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of the edited runs."""
    out: Path | None = None
    """Folder of report.json and report.html; by default `evaluation` in the one that was given, outputs/evaluation for
    several."""
    source: Path | None = None
    """Run to compare all edits with; by default the one that each began with."""
    clip: str = "auto"
    """A CLIP folder in transformers' layout, a hub id in the local cache, "toybox", "studio", or "auto": that of the
    prior's world for edits by a prior of this package, else an openai/clip-vit that is in the cache."""
    resolution: Annotated[int, Ge(2), Le(8192)] | None = 512
    """Shorter side of the renderings in pixels, where the photographs are not smaller."""
    frames: Annotated[int, Ge(2), Le(100_000)] = 24
    """Frames of the path on which neighbouring frames are compared."""
    data: Path | None = None
    """The dataset, where it has moved; by default where each run names it, or found again from the run."""
    src_prompt: Annotated[str | None, tyro.conf.arg(aliases=("--from",))] = None
    """Source prompt to measure with, in place of each edit's own."""
    tgt_prompt: Annotated[str | None, tyro.conf.arg(aliases=("--to",))] = None
    """Target prompt to measure with, in place of each edit's own."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Measure, print the table, write the reports."""
        if not self.run_folders:
            raise UserError("No run is given: name the folder of one edited run or more.")
        for folder in self.run_folders:
            require_pair(folder, source=self.source, data=self.data)
        console = Console(soft_wrap=True, highlight=False)
        say_loading(console)
        import torch

        from pds_nerfstudio.evaluation.before_after import load_pair, plan_pair

        plans = [plan_pair(folder, source=self.source, data=self.data) for folder in self.run_folders]
        for plan in plans:
            require_readable(plan)
        only = self.run_folders[0] if len(plans) == 1 else None
        out = self.out or (
            Path("outputs/evaluation") if only is None else place_beside(only, plans[0].folder, "evaluation")
        )
        require_own(out, ("report.json", "report.html"), "report.json", "runs")
        require_writable(out, room=ROOM)
        from pds_nerfstudio.evaluation.measure import load_judges, measure
        from pds_nerfstudio.evaluation.report import Entry, as_html, as_json, as_table
        from pds_nerfstudio.files import write_whole

        judges = load_judges(self.clip, [plan.edit.prior for plan in plans if plan.edit is not None])
        entries, failures = [], []
        for plan, label in zip(plans, labels(plans), strict=True):
            console.print(f"[cyan]Measuring {in_rich(plan.folder)}")
            source, target = plan.prompts
            prompts = (
                source if self.src_prompt is None else self.src_prompt,
                target if self.tgt_prompt is None else self.tgt_prompt,
            )
            try:
                measured = measure(load_pair(plan), judges, prompts, self.frames, self.resolution)
            except UserError as error:
                failures.append((plan.folder, str(error).rstrip(".")))
            except torch.cuda.OutOfMemoryError as error:
                failures.append((plan.folder, f"{OUT_OF_MEMORY}: {first_line(error).rstrip('.')}"))
            else:
                entries.append(Entry(label, plan.folder, plan.before, prompts, measured))
                continue
            if torch.cuda.is_available():  # outside of the handlers: the exceptions held what did not fit
                torch.cuda.empty_cache()
        if not entries:
            refuse_unmeasured(failures, len(plans))
        console.print(as_table(entries, judges), soft_wrap=False)
        write_whole(out / "report.json", json.dumps(as_json(entries, judges), indent=2, allow_nan=False) + "\n")
        write_whole(out / "report.html", as_html(entries, judges))
        console.print(f"{in_rich(out / 'report.html')}  [dim]to look at or to send to somebody")
        console.print(str(out / "report.json"), markup=False)
        unfilmed = [
            folder
            for folder, plan in zip(self.run_folders, plans, strict=True)
            if plan.folder in {entry.folder for entry in entries}
            and not place_beside(folder, plan.folder, "renders").exists()
        ]
        films = [step("film it before and after", "pds", "render", behind_latest(folder)) for folder in unfilmed[:1]]
        say_next(console, [*films, step("find other edits to compare with", "pds", "runs")])
        refuse_unmeasured(failures, len(plans))


def require_readable(plan: "PairPlan") -> None:
    """Read the checkpoints of a pair, so that a damaged one is found before anything is measured.

    Raises:
        UserError: one is damaged, empty or not finite.
    """
    from pds_nerfstudio.checkpoints import load_tensors
    from pds_nerfstudio.pipelines.carried import source_state
    from pds_nerfstudio.scenes.source import load_source_state

    for run in filter(None, (plan.run, plan.source, plan.refined)):
        load_tensors(run.checkpoint_path, "leave that run out, or make it again")
        load_source_state(replace(run))  # a copy: the run would keep what it has read
    if plan.began is not None:
        if plan.began.carried is not None:
            load_tensors(plan.began.carried, "name the scene before the edit with --source")
        source_state(plan.began)


def refuse_unmeasured(failures: Sequence[tuple[Path, str]], runs: int) -> None:
    """Raise UserError, with the reasons, if some of so many runs could not be measured."""
    if failures:
        named = "; ".join(f"{folder} ({why})" for folder, why in failures)
        raise UserError(f"{len(failures)} of {runs} runs could not be measured: {named}.")


def labels(plans: "Sequence[PairPlan]") -> list[str]:
    """A short name for each run: its method, with the run's time or a number where that is not enough."""
    names = [plan.run.method_name for plan in plans]
    if len(set(names)) < len(names):
        names = [f"{name} {plan.folder.name}" for name, plan in zip(names, plans, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{i}: {name}" for i, name in enumerate(names, start=1)]
    return names
