"""One step of an edit by score distillation: render, ask the objective for a gradient on the latent, return a loss.

view i ─► render ─► I [1 3 H W] ─► prior.encode ─► x⁰_tgt        with the graph of θ
source rendering of view i ─► prior.encode ─► x⁰_src             cached, no graph
objective.gradient(prior, Edit(x⁰_tgt, x⁰_src, …)) ─► g ─► surrogate_loss ─► loss_dict ─► nerfstudio's trainer
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.images import details
from pds_nerfstudio.objectives.base import SOURCE, Edit, ScoreDistillation, surrogate_loss
from pds_nerfstudio.objectives.controls import Draw, take_step
from pds_nerfstudio.objectives.pds import PDS
from pds_nerfstudio.objectives.sds import SDS
from pds_nerfstudio.pipelines import distributed
from pds_nerfstudio.pipelines.base import EditPipeline, noise_like
from pds_nerfstudio.pipelines.edit_config import EditConfig, listed_in_order
from pds_nerfstudio.pipelines.half_precision import OF_SUMS
from pds_nerfstudio.pipelines.memory_plan import Demand
from pds_nerfstudio.pipelines.settings import (
    AdapterSettings,
    DistilledScene,
    DistilledViews,
    Flat,
    LossSettings,
    SceneSettings,
    ViewSettings,
)
from pds_nerfstudio.pipelines.source_views import SourceView, depth_of
from pds_nerfstudio.priors.adapters import WARMUP_RATE
from pds_nerfstudio.priors.control import check_control, load_control
from pds_nerfstudio.priors.learning import LearningPrior
from pds_nerfstudio.scenes.orbit import VIEWS
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.priors.adapters import Adapters
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

ADAPTERS = "adapters"
"""Parameter group of the prior's adapters, and their prefix in a checkpoint."""
WARMUP_VIEWS = 4
"""What `DistillationPipeline.learn_source` looks at in each step."""


@listed_in_order
@dataclass
class DistillationConfig(EditConfig):
    """An edit by score distillation."""

    _target: type = field(default_factory=lambda: DistillationPipeline)
    objective: ScoreDistillation = field(default_factory=PDS)
    """Where the gradient comes from, with its own settings."""
    loss: Flat[LossSettings] = field(default_factory=LossSettings)
    """What the scene descends."""
    view: Flat[ViewSettings] = field(default_factory=DistilledViews)
    """How views are shown to the prior."""
    scene: Flat[SceneSettings] = field(default_factory=DistilledScene)
    """What this family of scenes can be told."""
    adapter: Flat[AdapterSettings] = field(default_factory=AdapterSettings)
    """How adapters learn, for the objectives that have any."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """Those of the objective."""
        return self.objective.adapters

    @property
    def demand(self) -> Demand:
        """See `EditConfig.demand`."""
        assert isinstance(self.view, DistilledViews)
        return Demand(self.view.most_at_once(), adapters=len(self.adapters))

    @property
    def first_scale(self) -> float:
        """That of a score loss, a sum over latents."""
        return OF_SUMS

    @property
    def reads_source_prompt(self) -> bool:
        """Every objective but SDS does."""
        return not isinstance(self.objective, SDS)

    def check_prior(self) -> None:
        """The prior's own check, and the ControlNet's."""
        super().check_prior()
        if self.adapter.control is not None:
            check_control(self.adapter.control, self.prior)


class DistillationPipeline(EditPipeline):
    """nerfstudio's pipeline with score distillation in place of the photometric loss."""

    config: DistillationConfig

    @property
    def adapters(self) -> "Adapters | None":
        """The prior's adapters, where this edit has made any."""
        return self.prior.adapters if self.prior_is_loaded else None

    def load(self, *args, **settings) -> "StableDiffusionPrior":
        """The prior, and the ControlNet that its adapters learn under."""
        prior = super().load(*args, **settings)
        if self.config.adapter.control is not None and self.config.adapters:
            CONSOLE.log(f"Loading the ControlNet {in_rich(self.config.adapter.control)}")
            prior.controlnet = load_control(self.config.adapter.control, prior)
        return prior

    def open(self, state: Mapping[str, Tensor], resumes: bool = False, refreeze: bool = False) -> None:
        """See `EditPipeline.open`; adapters are made here, because a trainer's optimisers need their parameters."""
        if self.config.adapters and self.adapters is None:
            if self.prior.controlnet is None:
                CONSOLE.log(
                    "The adapters learn without a depth-conditioned ControlNet (--pipeline.control): they may mix up a "
                    "scene's views, so that one side shows all around."
                )
            self.prior.add_adapters(self.config.adapters, self.config.adapter.adapter_rank, self.config.run.seed)
        super().open(state, resumes, refreeze)

    def get_param_groups(self):
        """The scene's, and the adapters'."""
        groups = super().get_param_groups()
        return groups if self.adapters is None else groups | {ADAPTERS: self.adapters.parameters()}

    def beside(self) -> dict[str, Tensor]:
        """The adapters."""
        own = {} if self.adapters is None else self.adapters.state_dict()
        return {f"_{ADAPTERS}.{name}": value for name, value in own.items()}

    def load_beside(self, state: Mapping[str, Tensor]) -> None:
        """See `EditPipeline.load_beside`."""
        if self.adapters is not None:
            prefix = f"_{ADAPTERS}."
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            self.adapters.load_state_dict(own)

    def begin(self, probe: Callable[[int], list[float]]) -> None:
        """Let ψ learn the source first, where that is asked for."""
        if SOURCE in self.config.adapters and self.config.adapter.adapter_warmup:
            self.learn_source(self.config.adapter.adapter_warmup)

    def get_train_loss_dict(self, step: int):
        """Losses of one edit step; `finite` then knows whether they can be used, and after backward the gradient."""
        self.finite.forget()
        prior, objective, config = self.prior, self.objective_at(step), self.config
        indices, generators, together = self.views_of_step(step)
        renderings = [self.render_view(index, self.coarseness_at(step)) for index in indices]
        if len({rendering.image.shape for rendering in renderings}) > 1:
            raise UserError("The dataset's views differ in shape and make no batch: leave --pipeline.views-per-step 1.")
        image = torch.cat([rendering.image for rendering in renderings])
        names = ", ".join(self.shown.names[index] for index in indices)
        self.finite.watch(image, lambda: f"the rendering of {names}")
        sources = [self.source_view(index) for index in indices]
        further = [self.further_losses(step, *pair) for pair in zip(renderings, sources, strict=True)]
        x0_tgt = prior.encode(image)

        def draw(rows: Sequence[int]) -> Draw:
            own = [generators[row] for row in rows]
            # One pair for views that are predicted together; on the CPU: a look-up then waits for no GPU.
            pairs = [objective.sample_timesteps(prior.schedule, 1, generator) for generator in own[::together]]
            t, s = (torch.cat(steps).repeat_interleave(together) for steps in zip(*pairs, strict=True))
            return t, s, noise_like(x0_tgt, own), noise_like(x0_tgt, own)

        self.finite.watch(x0_tgt, lambda: f"what the prior's encoder makes of {names}")
        controls = [source.control.to(x0_tgt) for source in sources if source.control is not None]
        t, s, eps, eps_s = draw(range(len(indices)))
        edit = Edit(
            x0_tgt=x0_tgt.detach(),
            x0_src=torch.cat([source.latent for source in sources]),
            src_prompt=self.shown.prompt(config.src_prompt, indices[0]),
            tgt_prompt=self.shown.prompt(config.tgt_prompt, indices[0]),
            t=t,
            s=s,
            eps=eps,
            eps_s=eps_s,
            control_tgt=torch.cat([depth_of(rendering) for rendering in renderings]) if controls else None,
            control_src=torch.cat(controls) if controls else None,
            cameras=self.shown.seen_from(indices, together),
        )
        taken = take_step(objective, edit, partial(LearningPrior.of_step, prior, objective.adapters), draw)
        self._watch_gradient(image, objective, taken.edit.t)
        self._require_finite(taken.gradient, "latent", objective, taken.edit.t)
        losses = {
            **{f"{name}_adapter_loss": loss for name, loss in taken.prior.losses().items()},
            "edit_loss": config.loss.loss_weight * surrogate_loss(x0_tgt, taken.gradient),
            **_mean_of([rendering.regulariser for rendering in renderings]),
            **_mean_of(further),
        }
        metrics = {"gradient_norm": taken.gradient.norm(), "timestep": taken.edit.t.float().mean()}
        if objective.redraw_below:
            metrics["redraws"] = torch.tensor(float(taken.redraws))
        return {}, losses, metrics

    def views_of_step(self, step: int) -> tuple[list[int], list[torch.Generator], int]:
        """Which views edit step `step` shows here, a generator for each, and how many are predicted together."""
        settings = self.config.view
        assert isinstance(settings, DistilledViews)
        in_turn = settings.views == "both"
        orbit = settings.views == "orbit" or (in_turn and step % 2 == 1)
        own = VIEWS if orbit else settings.views_per_step
        shown, first = distributed.count() * own, distributed.rank() * own
        places = range(first, first + own)
        generators = [self.generator(step * shown + place) for place in places]
        if not orbit:
            turn = (step // 2 if in_turn else step) // settings.steps_per_view
            return [self.view_of_step(turn * shown + place) for place in places], generators, 1
        number = int(torch.randint(settings.orbits, (), generator=generators[0]))
        return self.shown.orbit(number), generators, self.shown.of_an_orbit

    def coarseness_at(self, step: int) -> int:
        """By how much edit step `step` renders smaller than the prior is shown."""
        return 1

    def objective_at(self, step: int) -> ScoreDistillation:
        """The objective of edit step `step`."""
        return self.config.objective.at(0.0 if self.steps is None else step / self.steps)

    def further_losses(self, step: int, rendering: Rendering, source: SourceView) -> dict[str, Tensor]:
        """Losses beside the objective's at edit step `step`; called before the rendering is encoded."""
        weight = self.config.loss.loss_weight * self.config.loss.hold_details
        if weight == 0:
            return {}
        lost = details(rendering.image - source.image.to(rendering.image), self.prior.latent_stride)
        # Beside a score loss that is summed over latents.
        return {"detail_loss": weight * source.latent.numel() * lost.square().mean()}

    def learn_source(self, steps: int) -> None:
        """Train ψ alone on the views that the edit will show of the source, under the prompts that go with them.

        Of training views there are `WARMUP_VIEWS` in a step, where they share their shape; where words say from where a
        view is seen, one. An orbit's are asked about together.
        """
        prior, config = self.prior, self.config
        assert self.adapters is not None
        assert isinstance(config.view, DistilledViews)
        optimizer = torch.optim.Adam(self.adapters.parameters(SOURCE), lr=WARMUP_RATE)
        for step in track(range(steps), "learning the source", console=CONSOLE, transient=True):
            generator = self.generator(step)
            indices, _, together = self.views_of_step(step)
            if together == 1:
                own = 1 if config.view.view_words else WARMUP_VIEWS
                turn = step // config.view.steps_per_view * own
                indices = [self.view_of_step(turn + place) for place in range(own)]
            sources = [self.source_view(index) for index in indices]
            alike = [source for source in sources if source.latent.shape == sources[0].latent.shape]
            x0 = torch.cat([source.latent for source in alike])
            controls = [source.control.to(x0) for source in alike if source.control is not None]
            pairs = config.objective.sample_timesteps(prior.schedule, len(x0) // together, generator)
            t, s = (steps.repeat_interleave(together) for steps in pairs)
            eps = noise_like(x0, [generator] * len(x0))
            control = torch.cat(controls) if controls else None
            cameras = self.shown.seen_from([source.index for source in alike], together)
            prompt = self.shown.prompt(config.src_prompt, alike[0].index)
            edit = Edit(x0, x0, prompt, "", t, s, eps, eps, control_src=control, cameras=cameras)
            LearningPrior.of_step(prior, (SOURCE,), edit).teach(optimizer)

    def _watch_gradient(self, image: Tensor, objective: ScoreDistillation, t: Tensor) -> None:
        """Require the gradient on the image to be finite, and keep the first view's for the panel."""
        if not image.requires_grad:
            return
        pixels = image[:1].detach()  # the hook must not hold the graph that it hangs on

        def look(grad: Tensor) -> None:
            self._require_finite(grad, "image", objective, t)
            self.last_view = pixels, grad[:1].detach()

        image.register_hook(look)

    def _require_finite(self, gradient: Tensor, place: str, objective: ScoreDistillation, t: Tensor) -> None:
        name = type(objective).__name__
        self.finite.watch(gradient, lambda: f"the {place} gradient of {name} at timestep {t.tolist()}")


def _mean_of(losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over views of each loss by name."""
    return {name: torch.stack([of_view[name] for of_view in losses]).mean() for name in losses[0]}
