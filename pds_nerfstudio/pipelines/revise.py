"""Perturb-and-Revise (Hong et al. 2024): perturb the scene, edit it with any objective, then restore its identity.

    step     0 ─────────────────── edit_steps ──────────────────────────────── edit_steps + refine_steps
    scene    (1−η) θ_src + η θ₀
    losses   the objective         the objective + identity to the source image of the view, weight → 0 at half
    t        annealed              annealed once more

What a step does depends on its number alone, so that a resumed edit goes on in the stage it was in. η "auto" probes
the objective on the unperturbed scene first; the probed parameters are discarded.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from pds_nerfstudio.objectives.base import ScoreDistillation
from pds_nerfstudio.objectives.dds import DDS
from pds_nerfstudio.objectives.pds import PDS
from pds_nerfstudio.objectives.perturb import (
    PAPERS_MINIMUM_DECREASE,
    annealed_range,
    choose_eta,
    falling_weight,
    identity_loss,
    loss_increase,
    with_range,
)
from pds_nerfstudio.objectives.piva import Piva
from pds_nerfstudio.objectives.relevance import MIDDLE, prediction_difference, relevance
from pds_nerfstudio.objectives.sds import SDS
from pds_nerfstudio.objectives.vsd import VSD
from pds_nerfstudio.pipelines.edit import EditPipeline, EditPipelineConfig
from pds_nerfstudio.pipelines.perceptual import Perceptual
from pds_nerfstudio.pipelines.source_views import SourceView
from pds_nerfstudio.scenes.hull import INSIDE, Hull, Region
from pds_nerfstudio.scenes.perturb import perturb_nerf, perturb_splats, redraw_tcnn
from pds_nerfstudio.scenes.region import Common
from pds_nerfstudio.scenes.rendering import Rendering, render
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

HULL_VIEWS = 48
"""At most so many views are asked where to perturb, evenly chosen."""
PAPERS_LATENTS = 4 * 4 * 32 * 32
"""Values over which the score loss was summed beside which the paper weighs identity: four views of 4×32×32. One view
of Stable Diffusion at 512² has as many."""
RELEVANCE_DRAWS = 6
"""Draws of timestep and noise per view."""


@dataclass
class ReviseConfig(EditPipelineConfig):
    """What a perturbed edit is, beyond the edit itself."""

    _target: type = field(default_factory=lambda: RevisePipeline)
    by: Literal["pds", "dds", "sds", "vsd", "piva"] = "pds"
    """The revising objective: PDS, as in the paper's real scenes, or another. What --pipeline.objective… sets of
    guidance and timesteps goes for any of them."""
    eta: float | Literal["auto"] = 0.6
    """How far towards a fresh draw the scene is moved before the edit, in [0, 1]. 0.6 is for real scenes (Hong et al.
    2024, sec. E); "auto" measures it (Alg. 2)."""
    eta_opacity: float = 0.0
    """Splats only: eta of the opacities, wherever eta itself is not 0. The paper perturbs mean and variance alone."""
    eta_colour: float = 0.0
    """Splats only: eta of the colours, likewise."""
    perturb: Literal["everywhere", "relevant"] = "relevant"
    """What is perturbed: the whole scene, as in the paper, or the part of it where the prior, asked about the source's
    views, would change something for the target prompt."""
    change: Literal["everywhere", "relevant"] = "everywhere"
    """What may change at all: the whole scene, or that part of it alone. The rest is then held, as outside a box."""
    probe_steps: int = 50
    """eta "auto" only: steps of the probe."""
    eta_max: float = 0.6
    """eta "auto" only: the largest eta it may choose."""
    minimum_decrease: float = PAPERS_MINIMUM_DECREASE
    """eta "auto" only: Δ_min, the fall of the loss over the probe from which on no perturbation is needed. 1000 is for
    MVDream's loss; `pds calibrate-eta` proposes one for another prior, objective or scene."""
    anneal: bool = False
    """Anneal the timesteps of each stage from 0.75 to [0.02, 0.40], in place of the objective's own range: the paper's
    way with objects and SDS. With PDS, which the paper leaves as it is on real scenes, late small timesteps mostly
    pull back to the source."""
    edit_steps: int = 15_000
    """Steps of the edit. --max-num-iterations, where given, counts both stages."""
    refine_steps: int = 1_000
    """Steps of the refinement that follows; 0 leaves it out."""
    spare_relevant: bool = True
    """Refinement: pull back only what the prior, asked about the source's views, would leave alone. Off, it pulls
    everywhere, as in the paper."""
    identity_l1: float = 30_000.0
    """Refinement: weight of the mean absolute difference to the source image, at its begin (table 2), beside a score
    loss summed over 16,384 latent values; scaled where the prior has fewer or more."""
    identity_perceptual: float = 300.0
    """Refinement: weight of the perceptual distance to the source image; likewise."""

    def __post_init__(self) -> None:
        for name in ("eta", "eta_opacity", "eta_colour", "eta_max"):
            value = getattr(self, name)
            if value != "auto" and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}: it must lie in [0, 1], the source scene and a fresh draw.")
        if self.minimum_decrease <= 0:
            raise ValueError(f"minimum_decrease is {self.minimum_decrease}: it must be greater than 0.")


REVISING: dict[str, type[ScoreDistillation]] = {"pds": PDS, "dds": DDS, "sds": SDS, "vsd": VSD, "piva": Piva}


def chosen_objective(config: ReviseConfig) -> ScoreDistillation:
    """The objective that `config.by` names, with the guidance and the timesteps that were set."""
    kind = REVISING[config.by]
    if type(config.objective) is kind:
        return config.objective
    of_default = type(config.objective)()
    names = ("guidance_scale", "min_step_percent", "max_step_percent")
    given = {name: getattr(config.objective, name) for name in names}
    return kind(**{name: value for name, value in given.items() if value != getattr(of_default, name)})


class RevisePipeline(EditPipeline):
    """An edit of a perturbed scene, in two stages."""

    config: ReviseConfig

    def __init__(self, config: ReviseConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self._maps: dict[tuple[int, str, str], Tensor] = {}

    def begin(self, probe: Callable[[int], list[float]]) -> None:
        """Choose η and perturb the scene."""
        super().begin(probe)
        eta = self.config.eta
        if eta == "auto":
            increase = loss_increase(probe(self.config.probe_steps))
            eta = choose_eta(increase, self.config.minimum_decrease, self.config.eta_max)
            self.decisions["eta"] = (
                f"Probe of {self.config.probe_steps} steps: the edit's loss "
                f"{'rose' if increase > 0 else 'fell'} by {abs(increase):.4g} (Δ_min {self.config.minimum_decrease:g}, "
                f"η_max {self.config.eta_max:g}), hence η = {eta:.3f}."
            )
        else:
            self.decisions["eta"] = f"Perturbing the scene with η = {eta:g}."
        CONSOLE.log(in_rich(self.decisions["eta"]))
        self.perturb_scene(eta)

    def perturb_scene(self, eta: float) -> None:
        """Move the scene towards a fresh draw: the same one each time, on every rank and machine.

        At η = 0 nothing moves at all.
        """
        if eta == 0:
            return
        with self.held.holding():
            self._perturb(eta)

    def _perturb(self, eta: float) -> None:
        seed = self.config.seed
        hull = self.relevant_hull() if self.config.perturb == "relevant" else None
        if isinstance(self.model, SplatfactoModel):
            colours, opacities = self.config.eta_colour, self.config.eta_opacity
            etas = {"means": eta, "scales": eta, "opacities": opacities, "features_dc": colours}
            count = perturb_splats(self.model, etas, torch.Generator().manual_seed(seed), hull)
            self.decisions["perturbed"] = f"{count} of {len(self.model.means)} Gaussians perturbed."
            CONSOLE.log(in_rich(self.decisions["perturbed"]))
            if count == 0:
                CONSOLE.log(
                    "[yellow]The prior sees nothing to change in this scene for these prompts: try the prompts in two "
                    "dimensions first, or --pipeline.perturb everywhere."
                )
        elif isinstance(self.model, NerfactoModel):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                fresh = self.build_model()
            redraw_tcnn(fresh, seed)
            perturb_nerf(self.model, fresh, eta, hull)

    @property
    def confining(self) -> tuple[str, ...]:
        """Names of the settings that the region depends on and that may change while the edit runs."""
        return ("box", "prompts") if self.config.change == "relevant" else ("box",)

    def region(self) -> Region | None:
        """Where the scene may change; None for everywhere."""
        region = super().region()
        if self.config.change == "everywhere":
            return region
        hull = self.relevant_hull()
        return hull if region is None else Common(region, hull)

    @torch.no_grad()
    def relevant_hull(self) -> Hull:
        """Where in space the prior asks for change, by the source's training views."""
        prior, views = self._ready()
        source = self.source_scene()
        stride = max(1, math.ceil(len(views) / HULL_VIEWS))
        cameras, masks, renderings = [], [], []
        for index in track(range(0, len(views), stride), "where to perturb", console=CONSOLE, transient=True):
            height, width = self._working_size(prior, views, index)
            cameras.append(views.camera(index, height, width))
            renderings.append(render(source, cameras[-1]))
            masks.append(self._relevance(prior, self.source_view(index)))
        return Hull.from_renderings(cameras, masks, renderings)

    def _relevance(self, prior: "StableDiffusionPrior", source: SourceView) -> Tensor:
        """How much of each place of a view the prior would change, in [0, 1], at the latent's size; measured once."""
        prompts = self.config.src_prompt, self.config.tgt_prompt
        key = (source.index, *prompts)  # prompts may change while the edit runs
        if key not in self._maps:
            generator = torch.Generator().manual_seed(self.config.seed)
            low, high = (round(share * prior.schedule.num_steps) for share in MIDDLE)
            t = torch.randint(low, high, (RELEVANCE_DRAWS,), generator=generator)
            eps = torch.randn(RELEVANCE_DRAWS, *source.latent.shape[1:], generator=generator).to(source.latent)
            x0 = source.latent.expand(RELEVANCE_DRAWS, -1, -1, -1)
            difference = prediction_difference(prior, x0, *prompts, t, eps).mean(0)
            self._maps[key] = relevance(difference).to(self.device)
        return self._maps[key]

    def stage_at(self, step: int) -> str:
        """ "edit" or "refinement"."""
        return "edit" if step < self.config.edit_steps else "refinement"

    def objective_at(self, step: int) -> ScoreDistillation:
        """The revising objective, its timesteps annealed within the stage."""
        if not self.config.anneal:
            return self.config.objective
        return with_range(self.config.objective, annealed_range(self._progress(step)))

    def further_losses(self, step: int, rendering: Rendering, source: SourceView) -> dict[str, Tensor]:
        """In the first half of the refinement also what pulls the rendering back to the source."""
        losses = super().further_losses(step, rendering, source)
        if step < self.config.edit_steps or not (weight := falling_weight(self._progress(step))):
            return losses
        image, original = rendering.image, source.image.to(rendering.image)
        if self.config.spare_relevant:
            prior, _ = self._ready()
            spared = (self._relevance(prior, source) / INSIDE).clamp(max=1)[None, None]
            spared = F.interpolate(spared, image.shape[-2:], mode="bilinear", align_corners=False)
            image = torch.lerp(image, original, spared)  # no difference, hence no pull, where it is spared
        weights = self.config.identity_l1, self.config.identity_perceptual
        loss = identity_loss(image, original, self._perceptual, *weights)
        beside_the_score = source.latent.numel() / PAPERS_LATENTS
        return losses | {"identity_loss": self.config.loss_weight * weight * beside_the_score * loss}

    def _progress(self, step: int) -> float:
        """How much of its stage is done before this step, in [0, 1); a probe's steps count as the first."""
        first, steps = 0, self.config.edit_steps
        if step >= self.config.edit_steps:
            first, steps = self.config.edit_steps, self.config.refine_steps
        return max(step - first, 0) / max(steps, 1)

    @functools.cached_property
    def _perceptual(self) -> Perceptual:
        return Perceptual(self._ready()[0], self.device)
