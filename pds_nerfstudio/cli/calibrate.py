"""`pds calibrate-eta`: what Δ_min should be for a scene, a prior and an objective (Hong et al. 2024, Alg. 2).

Two probes from the same scene and the same draws: one that stands still, whose spread is chance, and one that edits.
"""

import copy
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from annotated_types import Ge, Le
from rich.console import Console
from rich.table import Table

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.next_steps import say_next, step
from pds_nerfstudio.prompts import check_prompts
from pds_nerfstudio.ranges import Guidance, Seed, check_ranges
from pds_nerfstudio.runs import require_run
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.objectives import ScoreDistillation

CLEARLY = 2.0
"""A fall of the loss counts from this many standard errors on."""
SHARE = 0.1
"""And from this share of the loss itself on."""


@dataclass
class CalibrateEta:
    """Measure an edit's loss on a scene and propose --pipeline.minimum-decrease for pnr-edit's eta "auto"."""

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the finished run, or the nerfstudio_models in it."""
    src_prompt: str
    """What the scene shows now."""
    tgt_prompt: str
    """What the scene should show, "a photo of a man wearing a hat"."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A hub id, a local diffusers folder, "toybox" or "studio"."""
    objective: str = "pds"
    """The revising objective, any that --pipeline.by takes."""
    guidance_scale: Guidance | None = None
    """Guidance of that objective; by default the method's own."""
    steps: Annotated[int, Ge(20), Le(100_000)] = 50
    """Steps of each of the two probes, at least 20."""
    seed: Seed = 0
    """Seed of views, timesteps and noise."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Probe twice and print what was measured and what follows."""
        from pds_nerfstudio.priors.check import check_prior

        check_prompts(self.src_prompt, self.tgt_prompt, needs_source=self.objective != "sds")
        require_run(self.run_folder, called="The run")
        check_prior(self.prior)
        from pds_nerfstudio.objectives.perturb import choose_eta, loss_increase

        self.kind()
        console = Console()
        with tempfile.TemporaryDirectory() as scratch:
            still, moving = self._probe(Path(scratch))
        proposal = propose(still)
        increase = loss_increase(moving)
        table = Table("measured", "", title=f"{self.objective} on {in_rich(self.run_folder)}, {self.steps} steps")
        for what, value in (
            ("loss of the unchanged scene, mean", statistics.fmean(still)),
            ("its spread from draw to draw (standard deviation)", statistics.stdev(still)),
            ("chance in a difference of two means of ten", _chance(still)),
            ("ΔL of the probe (last ten − first ten)", increase),
        ):
            table.add_row(what, f"{value:.4g}")
        console.print(table)
        console.print(
            f"Proposed: [bold]--pipeline.minimum-decrease {proposal:.3g}[/] (the larger of {CLEARLY:g} times that "
            f"chance and {SHARE:.0%} of the loss). With it, eta auto would choose "
            f"[bold]{choose_eta(increase, proposal):.3f}[/] of at most 0.6 for this edit."
        )
        say_next(console, [step("edit with it", *self.edit_line(proposal))])

    def edit_line(self, minimum_decrease: float) -> list[str]:
        """The `ns-train` that makes the edit that was probed."""
        from pds_nerfstudio.scenes.source import find_run

        run = require_run(self.run_folder, called="The run")
        splats = find_run(self.run_folder).family == "splatfacto"
        words = ["ns-train", "pnr-edit" + "-splat" * splats, "--load-dir", str(run.models)]
        words += ["--pipeline.src-prompt", self.src_prompt, "--pipeline.tgt-prompt", self.tgt_prompt]
        words += ["--pipeline.prior", self.prior, "--pipeline.by", self.objective, "--pipeline.eta", "auto"]
        if self.guidance_scale is not None:
            words += ["--pipeline.objective.guidance-scale", str(self.guidance_scale)]
        return [*words, "--pipeline.minimum-decrease", f"{minimum_decrease:.3g}"]

    def kind(self) -> "type[ScoreDistillation]":
        """The objective's class. Raises UserError where there is none of that name."""
        from pds_nerfstudio.objectives import BY_NAME

        if self.objective not in BY_NAME:
            raise UserError(f"--objective {self.objective} is none: give one of {', '.join(BY_NAME)}.")
        return BY_NAME[self.objective]

    def _probe(self, scratch: Path) -> tuple[list[float], list[float]]:
        """Losses of a scene that stands still, and of one that is edited."""
        from pds_nerfstudio.methods import METHODS
        from pds_nerfstudio.pipelines.command_line import Given
        from pds_nerfstudio.pipelines.trainer import EditTrainer
        from pds_nerfstudio.priors.recipe import CHOICE
        from pds_nerfstudio.scenes.source import find_run

        family = find_run(self.run_folder).family
        config = copy.deepcopy(METHODS["pnr-edit-splat" if family == "splatfacto" else "pnr-edit"].config)
        config.load_dir, config.output_dir, config.vis = self.run_folder, scratch, "tensorboard"
        config.logging.local_writer.enable = False
        pipeline = config.pipeline
        pipeline.src_prompt, pipeline.tgt_prompt = self.src_prompt, self.tgt_prompt  # pyright: ignore[reportAttributeAccessIssue]
        pipeline.prior, pipeline.run.seed = self.prior, self.seed  # pyright: ignore[reportAttributeAccessIssue]
        settings: dict[str, Any] = {} if self.guidance_scale is None else {"guidance_scale": self.guidance_scale}
        pipeline.objective = self.kind()(**settings)  # pyright: ignore[reportAttributeAccessIssue]
        pipeline.by = self.objective  # pyright: ignore[reportAttributeAccessIssue]
        own = METHODS[str(config.method_name)].config
        meant = (CHOICE, *(f"pipeline.objective.{name}" for name in settings))
        config.given = Given.of(config, own).with_also(*meant)  # pyright: ignore[reportAttributeAccessIssue]
        config.set_timestamp()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        assert isinstance(trainer, EditTrainer)
        return trainer.probe(self.steps, still=True), trainer.probe(self.steps)


def propose(still: list[float]) -> float:
    """Δ_min from the losses of an unchanged scene: what is both more than chance and worth mentioning."""
    return max(CLEARLY * _chance(still), SHARE * statistics.fmean(still))


def _chance(losses: list[float]) -> float:
    """Standard deviation of the difference between two means of ten draws."""
    return statistics.stdev(losses) * (2 / 10) ** 0.5
