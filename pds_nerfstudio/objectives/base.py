"""What every objective shares: its input (`Edit`), what it may ask a prior (`Query`, `Prior`), and the one
place where a gradient becomes a loss (`surrogate_loss`, `differentiated_now`)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule, PerSample, Timesteps
from pds_nerfstudio.ranges import Guidance, Share, check_ranges

Weighting = Literal["variance", "unit", "reconstruction"]
"""w(t) of `score_weight`."""

ControlPicture = Float[Tensor, "batch 3 image_height image_width"]
"""RGB in [0, 1] at the size of the rendering."""

SOURCE, EDITED = "source", "edited"
"""Adapters of the prior: ψ learns the source's renderings, φ the edited ones."""


@dataclass(frozen=True, eq=False)
class Query:
    """One noise prediction that an objective asks of its prior: ε̂(x_t, t, y) under guidance ω."""

    noisy_latents: Latents
    """x_t."""
    t: Timesteps
    """Zero-based training step of every sample, in [0, T)."""
    prompt: str
    """y, one text for the whole batch."""
    guidance_scale: float = 1.0
    """ω of `guided`; 1 is the conditional prediction."""
    adapter: str | None = None
    """Name of the adapter (LoRA) that predicts; None is the frozen prior itself."""
    control: ControlPicture | None = None
    """What a ControlNet is shown beside x_t, one picture per sample; None asks without a ControlNet."""
    cameras: Viewpoints | None = None
    """Where the samples are seen from, for priors that take cameras; None asks for pictures seen from anywhere."""


@runtime_checkable
class Prior(Protocol):
    """What an objective needs from a diffusion prior. Nothing has to inherit from it."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule the prior was trained with."""
        ...

    def predict_noise(self, queries: Sequence[Query]) -> list[Latents]:
        """ε̂ of every query, guided, in one network batch; each in its query's shape, dtype and device."""
        ...


@dataclass(frozen=True, eq=False)
class Edit:
    """Everything an objective may depend on at one step, the noise included, so objectives need no randomness.

    Raises ValueError for latents of different shapes, timesteps of the wrong shape or dtype, and pairs that
    violate 0 ≤ s < t.
    """

    x0_tgt: Latents
    """x⁰ of the rendering being edited."""
    x0_src: Latents
    """x⁰ of the frozen source rendering of the same view."""
    src_prompt: str
    """y_src, one text for the whole batch."""
    tgt_prompt: str
    """y_tgt, one text for the whole batch."""
    t: Timesteps
    """Zero-based training step, in [1, T)."""
    s: Timesteps
    """The earlier step of the pair, 0 ≤ s < t; only objectives that use the posterior read it."""
    eps: Latents
    """ε_t, shared by source and target."""
    eps_s: Latents
    """ε_s, shared by source and target."""
    control_tgt: ControlPicture | None = None
    """The rendering's depth, as a ControlNet is shown it; None where there is no ControlNet."""
    control_src: ControlPicture | None = None
    """The source's depth of the same view, likewise."""
    cameras: Viewpoints | None = None
    """Where the samples are seen from; None where the prior takes no cameras."""

    def __post_init__(self) -> None:
        shape = list(self.x0_tgt.shape)
        if len(shape) != 4:
            raise ValueError(f"x0_tgt has shape {shape}: latents must be [batch channels height width].")
        for name in ("x0_src", "eps", "eps_s"):
            found = list(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"{name} has shape {found}: give it x0_tgt's shape {shape}.")
        for name in ("t", "s"):
            steps = getattr(self, name)
            if list(steps.shape) != shape[:1] or steps.dtype != torch.int64:
                raise ValueError(
                    f"{name} is {steps.dtype} of shape {list(steps.shape)}: give it one int64 per sample, "
                    f"shape {shape[:1]}."
                )
        if bool((self.s < 0).any()) or bool((self.s >= self.t).any()):
            raise ValueError(
                f"s is {self.s.tolist()} with t {self.t.tolist()}: every pair needs 0 ≤ s < t, "
                "as objective.sample_timesteps draws them."
            )
        if self.cameras is not None and len(self.cameras) != shape[0]:
            raise ValueError(f"There are {len(self.cameras)} cameras for {shape[0]} samples: give one each.")

    def query(
        self,
        noisy_latents: Latents,
        prompt: str,
        guidance_scale: float = 1.0,
        adapter: str | None = None,
        control: ControlPicture | None = None,
    ) -> Query:
        """What a prior is asked about noisy latents of this edit's views, at its t."""
        return Query(noisy_latents, self.t, prompt, guidance_scale, adapter, control, self.cameras)


@runtime_checkable
class Objective(Protocol):
    """A score distillation objective: hyperparameters, a way to draw timesteps, and a deterministic gradient."""

    @property
    def guidance_scale(self) -> float: ...
    @property
    def min_step_percent(self) -> float: ...
    @property
    def max_step_percent(self) -> float: ...

    def sample_timesteps(
        self, schedule: NoiseSchedule, batch: int, generator: torch.Generator
    ) -> tuple[Timesteps, Timesteps]:
        """Pairs (t, s), s < t, one per sample, on the generator's device."""
        ...

    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """g, the gradient with respect to x⁰_tgt of every sample, not divided by the batch, outside any graph."""
        ...


@dataclass(frozen=True)
class ScoreDistillation(ABC):
    """Hyperparameters that all objectives have. Raises ValueError for a step range outside 0 ≤ min ≤ max ≤ 1."""

    guidance_scale: Guidance = 100.0
    """Classifier-free guidance ω in ε_∅ + ω(ε_y − ε_∅); 1 is the conditional prediction. 100 is for PDS: Koo et al.
    2024 (S.3) use 30 to 100 for NeRFs, and 100 for the objectives that they compare with."""
    min_step_percent: Share = 0.02
    """Smallest timestep that may be drawn, as a fraction in [0, 1] of all timesteps."""
    max_step_percent: Share = 0.98
    """End of the range of timesteps, exclusive, as a fraction in [0, 1]. Equal to the start for one fixed timestep."""
    redraw_below: Annotated[float, Ge(0), Le(100)] = 0.0
    """Draw a view's timestep and noise again while the target prompt changes the prediction by less than this standard
    deviation. Chinchuthakun et al. 2025 (LUSD) use 0.01, lowered by 1 % with every retry; 0 never draws again."""
    most_redraws: Annotated[int, Ge(1), Le(1000)] = 10
    """With redraw-below: number of retries in a step after which the last draw is taken."""
    normalise: Annotated[float, Ge(0), Le(10)] = 0.0
    """Bring each view's gradient to this standard deviation at the beginning of the edit (LUSD: 0.15); 0 leaves
    gradients as they are."""
    normalise_end: Annotated[float, Ge(0), Le(10)] = 0.01
    """With normalise: the standard deviation at the end of the edit, which stops it."""

    def __post_init__(self) -> None:
        check_ranges(self, "", ValueError)
        if not 0 <= self.min_step_percent <= self.max_step_percent <= 1:
            raise ValueError(
                f"min_step_percent is {self.min_step_percent} and max_step_percent {self.max_step_percent}: they are "
                "fractions of the steps, give 0 <= min <= max <= 1."
            )

    def sample_timesteps(
        self, schedule: NoiseSchedule, batch: int, generator: torch.Generator
    ) -> tuple[Timesteps, Timesteps]:
        """t uniform over the range and s = t − 1, which these objectives do not read."""
        return sample_strided(schedule, batch, generator, self.min_step_percent, self.max_step_percent, stride=1)

    def at(self, progress: float) -> "ScoreDistillation":
        """This objective as it is at `progress` in [0, 1] of an edit: the same throughout, for most.

        The size of normalised gradients falls along a sigmoid, as in the release of Chinchuthakun et al. 2025.
        """
        if self.normalise == 0:
            return self
        fallen = 1 / (1 + math.exp(5 - 10 * progress))
        size = self.normalise + fallen * (self.normalise_end - self.normalise)
        return replace(self, normalise=size, normalise_end=size)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Which adapters of the prior its queries name, of SOURCE and EDITED."""
        return ()

    @abstractmethod
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """See `Objective.gradient`."""


def sample_strided(
    schedule: NoiseSchedule,
    batch: int,
    generator: torch.Generator,
    min_step_percent: float,
    max_step_percent: float,
    stride: int,
) -> tuple[Timesteps, Timesteps]:
    """Neighbours t = τ_i and s = τ_{i−1} among the strided steps τ_i = stride·(i + 1) − 1, i in [0, S), S = ⌊T/stride⌋.

    i is uniform over the integers of the half-open range [round(min·S), round(max·S)): with T = 1000, stride 2 and
    [0.02, 0.98] that is i in [10, 490), t in {21, 23, …, 979} (Koo et al. 2024, S.3: τ_i = 2i of the one-based steps).
    A range that holds no integer is the single step at its start, and i = 0 is left out because nothing precedes it.

    Raises ValueError if the schedule has fewer than two strided steps.
    """
    count = schedule.num_steps // stride
    if count < 2:
        raise ValueError(f"stride is {stride}: a schedule of {schedule.num_steps} steps needs at most half of that.")
    first = min(max(round(min_step_percent * count), 1), count - 1)
    last = max(round(max_step_percent * count), first + 1)
    i = torch.randint(first, last, (batch,), generator=generator, device=generator.device)
    t = stride * (i + 1) - 1
    return t, t - stride


def guided(unconditional: Latents, conditional: Latents, guidance_scale: float) -> Latents:
    """Classifier-free guidance ε_∅ + ω(ε_y − ε_∅): ω = 0 is unconditional, ω = 1 conditional (Ho & Salimans 2022)."""
    return unconditional + guidance_scale * (conditional - unconditional)


def predict_pair(prior: Prior, edit: Edit, guidance_scale: float) -> tuple[Latents, Latents]:
    """ε̂_tgt and ε̂_src at t from the same ε, each under its own prompt, in one call of the prior."""
    x_t_tgt = prior.schedule.add_noise(edit.x0_tgt, edit.t, edit.eps)
    x_t_src = prior.schedule.add_noise(edit.x0_src, edit.t, edit.eps)
    target, source = prior.predict_noise(
        [
            edit.query(x_t_tgt, edit.tgt_prompt, guidance_scale),
            edit.query(x_t_src, edit.src_prompt, guidance_scale),
        ]
    )
    return target, source


def score_weight(schedule: NoiseSchedule, t: Timesteps, weighting: Weighting) -> PerSample:
    """w(t): 1 − ᾱ_t ("variance", the σ_t² of Poole et al. 2022), 1 ("unit"), or √(1/ᾱ_t − 1) ("reconstruction").

    √(1/ᾱ_t − 1)(ε̂ − ε) is x⁰ − x̃⁰(x_t, ε̂), the gradient of ½‖x⁰ − x̃⁰‖² (Shi et al. 2023); not finite where ᾱ_t is 0.
    """
    alpha_bar = schedule.alpha_bar(t)
    match weighting:
        case "variance":
            return 1 - alpha_bar
        case "reconstruction":
            return (1 / alpha_bar - 1).sqrt()
        case "unit":
            return torch.ones_like(alpha_bar)


def surrogate_loss(x0_tgt: Latents, gradient: Latents) -> Float[Tensor, ""]:
    """A scalar whose value is ½‖g‖² and whose derivative with respect to x⁰_tgt is g/B.

    This fixes the scale of the whole project: the sum over latents, the mean over the batch. Each sample
    therefore receives its own gradient divided by the number of samples, independently of the resolution; the value
    is what PDS would report as ½‖z̃_tgt − z̃_src‖² at w = 1.

    x0_tgt carries the graph to the scene; gradient comes from `Objective.gradient`. The sum runs in float32 at least.
    """
    dtype = torch.promote_types(x0_tgt.dtype, torch.float32)
    x0, g = x0_tgt.to(dtype), gradient.detach().to(dtype)
    # The difference is exactly zero, so it contributes the derivative and leaves the value alone. The usual
    # ½‖x⁰ − (x⁰ − g).detach()‖² rounds g to the spacing of x⁰.
    return (0.5 * g.square().sum() + ((x0 - x0.detach()) * g).sum()) / len(x0)


def differentiated_now(loss: Callable[[Tensor], Tensor], x: Tensor) -> Float[Tensor, ""]:
    """A scalar with the value of `loss(x)` and its derivative, which is taken at once.

    What the loss keeps for its backward pass is then gone before the graphs of other losses of x are there.
    """
    if not x.requires_grad:
        return loss(x)
    own = x.detach().requires_grad_()
    value = loss(own)
    with torch.autocast(x.device.type, enabled=False):  # as a backward pass after the step's autocast
        (gradient,) = torch.autograd.grad(value, own)
    return value.detach() + ((x - x.detach()) * gradient).sum()
