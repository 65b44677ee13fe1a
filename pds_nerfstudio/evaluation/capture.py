"""Edits of real captures: there is no known answer, so they are judged against their source and prompts."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import load_pair, plan_pair
from pds_nerfstudio.evaluation.benchmark import Benchmark, Edit
from pds_nerfstudio.evaluation.measure import Measured, load_judges, measure
from pds_nerfstudio.evaluation.rows import NOTHING, REGENERATE, of_family
from pds_nerfstudio.evaluation.suite import CaptureEdit, Parser
from pds_nerfstudio.evaluation.trial import edit_config, headless, train
from pds_nerfstudio.files import visible_files
from pds_nerfstudio.pictures import Image3
from pds_nerfstudio.pipelines.command_line import Given
from pds_nerfstudio.pipelines.conclusion import SHEET_VIEWS
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.settings_tree import changed
from pds_nerfstudio.scenes.paths import evenly
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
    """A hub id, a local diffusers folder "toybox" or "studio"."""


@dataclass(frozen=True, eq=False)
class CaptureComparison:
    """A capture before and after its edit, on the views of `Measured.over`."""

    edit: Edit
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
        title = f"{prompts_title(self.edit.source_prompt, self.edit.target_prompt)}   ({self.measured.over})"
        before_after_sheet([before[i] for i in shown], [after[i] for i in shown], path, title)


class Capture(Benchmark):
    """Photographs, edited by the methods' own settings; there is no ceiling."""

    anchors: ClassVar = (NOTHING, REGENERATE)
    own_prior: ClassVar[str] = EditConfig.prior
    """Where none is named."""

    @property
    def prior(self) -> str:
        """By which all is edited."""
        return self.settings.prior or self.own_prior

    def check(self, edits: Sequence[CaptureEdit]) -> None:
        folders = {edit.data.resolve() for edit in edits}
        for folder in folders:
            if other := next((f for f in folders if f != folder and f.name == folder.name), None):
                raise UserError(
                    f"{folder} and {other} have one name, by which their reconstructions are kept: rename one."
                )

    def shared(self, edit: CaptureEdit, seed: int) -> str:
        return f"{edit.data.resolve().name}.{seed}"

    def made_of(self, edit: CaptureEdit, seed: int) -> dict[str, Any]:
        return super().made_of(edit, seed) | {"data": _described(edit.data), "parser": edit.parser}

    def prepare(self, edit: CaptureEdit, folder: Path, seed: int) -> Path:
        return self.reconstruct(edit.data, folder, seed, edit.parser)

    def reconstruct(
        self,
        data: Path,
        folder: Path,
        seed: int,
        parser: Parser = "nerfstudio",
        settings: Mapping[str, Any] | None = None,
    ) -> Path:
        """Train `source-<family>` on photographs, in `folder`; the run's `config.yml`.

        Args:
            settings: in place of its own, by the names of `ns-train`'s flags.
        """
        config = headless(f"source-{self.family}", folder, seed, self.settings.reconstruction_steps)
        config.experiment_name = "source"
        datamanager: Any = config.pipeline.datamanager
        if parser == "blender":
            datamanager.dataparser = BlenderDataParserConfig()
        datamanager.data = data
        config.steps_per_save = STEPS_PER_SAVE
        return train(changed(config, settings or {}))

    def edit(self, method: str, changes: Mapping[str, Any], source: Path, edit: Edit, out: Path, seed: int) -> Path:
        given: dict[str, Any] = {"pipeline.prior": self.prior}
        if self.settings.edit_steps is not None:
            given["max_num_iterations"] = self.settings.edit_steps
        given |= changes
        config: Any = changed(edit_config(of_family(method, self.family), source, edit, out, seed), given)
        config.given = Given(set(given))  # also what is given the method's own value, before the prior's recipe
        config.steps_per_save = STEPS_PER_SAVE
        return train(config)

    def compare(self, edit: CaptureEdit, scenes: Path, source: Path, edited: Path) -> CaptureComparison:
        pair = load_pair(plan_pair(edited, source=source))
        # Where the prior is toybox, toybox's CLIP is the judge.
        judges = load_judges("auto", [self.prior])
        prompts = edit.source_prompt, edit.target_prompt
        return CaptureComparison(edit, measure(pair, judges, prompts, FRAMES, SHORT_SIDE))


def _described(data: Path) -> str:
    """A capture by its name and by what it lists, wherever it lies."""
    files = (data, data / "transforms.json", data / "transforms_train.json")
    listed = next((file for file in files if file.is_file()), None)
    if listed is not None:
        content = listed.read_bytes()
    else:
        content = b"\n".join(os.fsencode(file.relative_to(data)) for file in visible_files(data))
    return f"{data.resolve().name} {hashlib.sha256(content).hexdigest()[:12]}"
