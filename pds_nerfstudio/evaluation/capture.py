"""Edits of real captures, which have no known answer: by the methods' own settings, judged against source and prompts.

The counterpart of `trial` for photographs: the same functions under the same names, which is what `bench` goes by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_nerfstudio.evaluation.measure import Image3, Measured, load_judges, measure
from pds_nerfstudio.evaluation.pairs import load_pair, plan_pair
from pds_nerfstudio.evaluation.suite import CaptureEdit
from pds_nerfstudio.evaluation.trial import headless, train
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.base import EditConfig
from pds_nerfstudio.pipelines.conclusion import SHEET_VIEWS
from pds_nerfstudio.pipelines.settings import change
from pds_nerfstudio.scenes.paths import evenly
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.shots import before_after_sheet, prompts_title

FRAMES, SHORT_SIDE = 24, 512
"""Of the path on which neighbours are compared; of renderings, in pixels, where the photographs are not smaller."""
STEPS_PER_SAVE = 2000


@dataclass(frozen=True)
class CaptureSettings:
    """What a benchmark may say instead of the methods' own settings."""

    reconstruction_steps: int | None = None
    edit_steps: int | None = None
    prior: str | None = None
    """A hub id, a local diffusers folder or "toybox"."""


@dataclass(frozen=True, eq=False)
class CaptureComparison:
    """A capture before and after its edit, on the held-out views."""

    edit: CaptureEdit
    measured: Measured

    @property
    def numbers(self) -> dict[str, float]:
        """The mean of every metric that could be measured."""
        means = {name: self.measured.mean(name) for name in self.measured.values}
        return {name: mean for name, mean in means.items() if mean is not None}

    @property
    def edited(self) -> list[Image3]:
        """Renderings after."""
        return [shot.image for shot in self.measured.after]

    def sheet(self, path: Path) -> None:
        """Contact sheet: a few views before and after, where they differ, and both depths."""
        before, after = self.measured.before, self.measured.after
        shown = evenly(len(before), SHEET_VIEWS)
        title = f"{prompts_title(self.edit.source_prompt, self.edit.target_prompt)}   (held-out views)"
        before_after_sheet([before[i] for i in shown], [after[i] for i in shown], path, title)


def reconstruct(family: Family, data: Path, out: Path, steps: int | None, seed: int) -> Path:
    """Train `source-<family>` on a capture; returns the run's `config.yml`."""
    method = f"source-{family}"
    config = headless(method, out, steps or METHODS[method].config.max_num_iterations, seed)
    config.experiment_name = "source"
    config.pipeline.datamanager.data = data
    config.steps_per_save = STEPS_PER_SAVE
    return train(config)


def run_edit(
    method: str,
    source: Path,
    edit: CaptureEdit,
    out: Path,
    settings: CaptureSettings,
    seed: int,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Train an edit method on a reconstructed capture; returns the edited run's `config.yml`."""
    config = headless(method, out, settings.edit_steps or METHODS[method].config.max_num_iterations, seed)
    config.experiment_name = "edited"
    config.load_dir = source.parent / config.relative_model_dir
    pipeline: Any = config.pipeline
    pipeline.src_prompt, pipeline.tgt_prompt = edit.source_prompt, edit.target_prompt
    pipeline.prior = settings.prior or pipeline.prior
    pipeline.run.seed = seed
    for name, value in (changes or {}).items():
        change(config, name, value)
    config.steps_per_save = STEPS_PER_SAVE
    return train(config)


def compare(edit: CaptureEdit, source: Path, edited: Path, settings: CaptureSettings) -> CaptureComparison:
    """An edit beside the scene it began with; numbers that need a network which is not on this machine are left out.

    Args:
        edit: what was asked for.
        source, edited: the two runs' `config.yml`; the same for an edit of nothing.
        settings: where the prior is toybox, toybox's CLIP is the judge.
    """
    pair = load_pair(plan_pair(edited, source=source))
    judges = load_judges("auto", [settings.prior or EditConfig.prior])
    prompts = edit.source_prompt, edit.target_prompt
    return CaptureComparison(edit, measure(pair, judges, prompts, FRAMES, SHORT_SIDE))
