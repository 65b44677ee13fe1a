"""Perturb-and-Revise (Hong et al. 2024): perturb the scene, edit it with any objective, then restore its identity.

    step     0 ─────────────────── edit_steps ──────────────────────────────── edit_steps + refine_steps
    scene    (1−η) θ_src + η θ₀
    losses   the objective         the objective + identity to the source image of the view, weight → 0 at half
    t        annealed              annealed once more

What a step does depends on its number alone, so that a resumed edit goes on in the stage it was in. η "auto" probes
the objective on the unperturbed scene first; the probed parameters are discarded.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from pds_nerfstudio.draws import seed_apart
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import BY_NAME, DVRF, SDS, ObjectiveName
from pds_nerfstudio.objectives.base import ScoreDistillation, differentiated_now
from pds_nerfstudio.objectives.controls import CONTROLS
from pds_nerfstudio.objectives.perturb import (
    annealed_range,
    choose_eta,
    falling_weight,
    identity_loss,
    loss_increase,
    with_range,
)
from pds_nerfstudio.objectives.relevance import MIDDLE, relevance
from pds_nerfstudio.pipelines.distillation import DistillationConfig, DistillationPipeline
from pds_nerfstudio.pipelines.edit_config import listed_in_order
from pds_nerfstudio.pipelines.prompt_difference import prompt_difference
from pds_nerfstudio.pipelines.settings import (
    Flat,
    Perturbation,
    Refinement,
    RegionSettings,
    RelevantRegion,
)
from pds_nerfstudio.pipelines.source_views import SourceView
from pds_nerfstudio.ranges import Share, Steps
from pds_nerfstudio.scenes.hull import INSIDE, Hull, Region
from pds_nerfstudio.scenes.region import common, hull_of_views
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.text import in_rich

PAPERS_LATENTS, PAPERS_VIEWS = 4 * 32 * 32, 4
"""What the identity's weights were chosen beside (the release of Hong et al. 2024): a score loss summed over the latent
values of a view and averaged over four views; the L1 distance is averaged over them too, the perceptual one summed."""
PAPERS_RESCALE = 0.5
"""How far the release brings the contrast of a guided reconstruction back."""
OF_ANY_OBJECTIVE = ("guidance_scale", "min_step_percent", "max_step_percent")
"""What every objective has beside `CONTROLS`; both are kept where another takes its place."""


COARSENESS = 4
"""By how much coarse steps render smaller: 64 pixels in place of 256, as Hong et al. 2024 do with objects."""


@listed_in_order
@dataclass
class ReviseConfig(DistillationConfig):
    """An edit of a perturbed scene, and the refinement that follows."""

    _target: type = field(default_factory=lambda: RevisePipeline)
    by: ObjectiveName = "pds"
    """The objective that revises the perturbed scene: PDS, as for the paper's real scenes, or another. The guidance,
    timesteps, redraws and normalisation of --pipeline.objective… apply to each of them."""
    reconstruction: bool = False
    """With --pipeline.by sds: minimise the distance to the prior's reconstruction, its contrast half rescaled, as the
    release of Hong et al. 2024 does for objects (Shi et al. 2023)."""
    edit_steps: Steps = 15_000
    """Steps of the edit, without the refinement. If --max-num-iterations is given, it counts both stages together."""
    anneal: bool = False
    """Anneal the timesteps of each stage from 0.75 to [0.02, 0.40] instead of drawing them from the objective's own
    range. The paper does this for objects, with SDS, and not for real scenes, with PDS. With PDS, small timesteps late
    in the edit mostly pull back to the source."""
    coarse: Share = 0.0
    """Share of the edit's steps, counted from the first, that render views at a quarter of their height and width and
    enlarge them. Hong et al. 2024 use 0.5 for objects, at 64 and then 256 pixels. Such a step of a NeRF takes a
    sixteenth of the rays."""
    perturbation: Flat[Perturbation] = field(default_factory=Perturbation)
    """How far the scene is moved towards a fresh draw."""
    refinement: Flat[Refinement] = field(default_factory=Refinement)
    """What follows the edit."""
    region: Flat[RegionSettings] = field(default_factory=RelevantRegion)
    """Where the scene may change."""

    @property
    def steps(self) -> int:
        """Of both stages."""
        return self.edit_steps + self.refinement.refine_steps

    def choose_objective(self, named: Container[str] = ()) -> None:
        """Let `objective` be the one that `by` names, with the guidance and the timesteps that were set.

        Args:
            named: settings that were named, which are kept also where they are the defaults of the other objective.
        """
        kind = BY_NAME[self.by]
        if self.reconstruction and kind is not SDS:
            raise UserError(f"--pipeline.reconstruction is a form of SDS: give --pipeline.by sds, not {self.by}.")
        if type(self.objective) is not kind:
            of_default = type(self.objective)()
            was = {name: getattr(self.objective, name) for name in (*OF_ANY_OBJECTIVE, *CONTROLS)}
            kept = {
                name: value
                for name, value in was.items()
                if f"pipeline.objective.{name}" in named or value != getattr(of_default, name)
            }
            self.objective = kind(**kept)
        if self.reconstruction:
            self.objective = replace(self.objective, weighting="reconstruction", guidance_rescale=PAPERS_RESCALE)  # pyright: ignore[reportCallIssue]


class RevisePipeline(DistillationPipeline):
    """An edit of a perturbed scene, in two stages."""

    config: ReviseConfig

    def __init__(self, config: ReviseConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self._maps: dict[tuple[int, str, str], Tensor] = {}
        self._hulls: dict[tuple[str, str], Hull] = {}

    def begin(self, probe: Callable[[int], list[float]]) -> None:
        """Choose η and perturb the scene."""
        super().begin(probe)
        settings = self.config.perturbation
        eta = settings.eta
        if eta == "auto":
            increase = loss_increase(probe(settings.probe_steps))
            eta = choose_eta(increase, settings.minimum_decrease, settings.eta_max)
            self.decisions["eta"] = (
                f"Probe of {settings.probe_steps} steps: the edit's loss "
                f"{'rose' if increase > 0 else 'fell'} by {abs(increase):.4g} (Δ_min {settings.minimum_decrease:g}, "
                f"η_max {settings.eta_max:g}), hence η = {eta:.3f}."
            )
        else:
            self.decisions["eta"] = f"Perturbing the scene with η = {eta:g}."
        CONSOLE.log(in_rich(self.decisions["eta"]))
        self.perturb_scene(eta)

    def perturb_scene(self, eta: float) -> None:
        """Move the scene towards a fresh draw: the same one each time, on every process and machine.

        At η = 0 nothing moves at all.
        """
        if eta == 0:
            return
        settings, seed = self.config.perturbation, self.config.run.seed
        where = self.relevant_hull() if settings.perturb == "relevant" else None
        with self.scene.keeping_frozen():
            said = self.scene.perturb(settings.etas(eta), lambda: self.build_model(seed_apart(seed)), seed, where)
        self.decisions["perturbed"] = said
        CONSOLE.log(in_rich(said))

    @property
    def region_depends_on(self) -> tuple[str, ...]:
        """See `EditPipeline.region_depends_on`."""
        own = super().region_depends_on
        return (*own, "prompts") if self._relevant_alone else own

    @property
    def _relevant_alone(self) -> bool:
        return isinstance(self.config.region, RelevantRegion) and self.config.region.change == "relevant"

    def region(self) -> Region | None:
        """See `EditPipeline.region`; where asked for, what the prior would change and no more."""
        return common(super().region(), self.relevant_hull() if self._relevant_alone else None)

    @torch.no_grad()
    def relevant_hull(self) -> Hull:
        """Where in space the prior asks for change, by the source's training views; found once for two prompts."""
        prompts = self.config.src_prompt, self.config.tgt_prompt
        if prompts not in self._hulls:
            hull = hull_of_views(
                self.source_scene(),
                self.views,
                self.working_size,
                lambda index, *_: self._relevance(self.source_view(index)),
                "what to change",
            )
            self._hulls = {prompts: hull}
        return self._hulls[prompts]

    def _relevance(self, source: SourceView) -> Tensor:
        """How much of each place of a view the prior would change, in [0, 1], at the latent's size; measured once."""
        prompts = self.config.src_prompt, self.config.tgt_prompt
        key = (source.index, *prompts)  # prompts may change while the edit runs
        if key not in self._maps:
            seed = self.config.run.seed
            difference = prompt_difference(self.prior, self.shown, source, prompts, MIDDLE, seed)
            self._maps[key] = relevance(difference)
        return self._maps[key]

    def stage_at(self, step: int) -> str:
        """ "edit" or "refinement"."""
        return "edit" if step < self.config.edit_steps else "refinement"

    def coarseness_at(self, step: int) -> int:
        """See `DistillationPipeline.coarseness_at`; a probe's steps are like the first."""
        of_edit = step < self.config.edit_steps
        return COARSENESS if of_edit and self._progress(step) < self.config.coarse else 1

    def objective_at(self, step: int) -> ScoreDistillation:
        """The revising objective, its timesteps annealed within the stage."""
        progress = self._progress(step)
        objective = self.config.objective.at(progress)
        if not self.config.anneal or (isinstance(objective, DVRF) and objective.descend):  # whose t falls by itself
            return objective
        return with_range(objective, annealed_range(progress))

    def further_losses(self, step: int, rendering: Rendering, source: SourceView) -> dict[str, Tensor]:
        """In the first half of the refinement also what pulls the rendering back to the source."""
        losses = super().further_losses(step, rendering, source)
        if step < self.config.edit_steps or not (weight := falling_weight(self._progress(step))):
            return losses
        original, settings = source.image.to(rendering.image), self.config.refinement
        spared = torch.zeros_like(original[:, :1])
        if settings.spare_relevant:
            relevance = (self._relevance(source) / INSIDE).clamp(max=1)[None, None]
            spared = F.interpolate(relevance, original.shape[-2:], mode="bilinear", align_corners=False)
        weights = settings.identity_l1, PAPERS_VIEWS * settings.identity_perceptual

        def lost(image: Tensor) -> Tensor:
            image = torch.lerp(image, original, spared)  # no difference, hence no pull, where it is spared
            return identity_loss(image, original, lambda *pictures: self.perceptual(*pictures), *weights)

        loss = differentiated_now(lost, rendering.image)
        beside_the_score = source.latent.numel() / PAPERS_LATENTS
        return losses | {"identity_loss": self.config.loss.loss_weight * weight * beside_the_score * loss}

    def _progress(self, step: int) -> float:
        """How much of its stage is done before this step, in [0, 1); a probe's steps count as the first."""
        first, steps = 0, self.config.edit_steps
        if step >= self.config.edit_steps:
            first, steps = self.config.edit_steps, self.config.refinement.refine_steps
        return max(step - first, 0) / max(steps, 1)
