"""What a network is shown and what it answers, in the terms of the model it belongs to; everything else speaks of ε.

    dialect          shown                  told     answers
    epsilon          x_t                    t        ε
    v_prediction     x_t                    t        √ᾱ_t ε − √(1−ᾱ_t) x⁰       (Salimans & Ho 2022)
    sample           x_t                    t        x⁰
    flow             x_σ = (1−σ)x⁰ + σε     1000 σ   ε − x⁰                     (Liu et al. 2023)

Why one place is enough: each is an affine function of ε given x_t, and a flow is a variance-preserving process in other
units (see `objectives.schedule`). Guidance may be applied before or after: its weights sum to one.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule, Timesteps, broadcast
from pds_nerfstudio.priors.folder import is_flow

Predicts = Literal["epsilon", "v_prediction", "sample", "flow"]
Times = Float[Tensor, "batch"] | Timesteps


@dataclass(frozen=True, eq=False)
class Dialect:
    """A noise schedule, and what the network predicts under it."""

    schedule: NoiseSchedule
    predicts: Predicts
    time_scale: float = 1000.0
    """What a flow's σ is multiplied with before the network is told it."""

    @classmethod
    def of(cls, scheduler: Any) -> "Dialect":
        """The one in which a diffusers scheduler's model was trained.

        Raises:
            ValueError: its prediction type is none of those above.
        """
        config = scheduler.config
        if is_flow(config):
            # From the shift and not from the scheduler's float32 table.
            shift = float(config.get("shift") or config.get("flow_shift") or 1.0)
            steps = config.num_train_timesteps
            return cls(NoiseSchedule.flow(steps, shift), "flow", float(steps))
        predicts = config.prediction_type
        if predicts not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type is {predicts!r}: it must be epsilon, v_prediction or sample.")
        # From β and not from the scheduler's float32 ᾱ, whose rounding is 1e-5 of the β that PDS takes from it.
        table = torch.cumprod(1 - scheduler.betas.double(), dim=0)
        return cls(NoiseSchedule.from_alphas_cumprod(table), predicts)

    def shown(self, x_t: Latents, t: Timesteps) -> tuple[Latents, Times]:
        """What the network is given for x_t at t: the noisy latent in its own units, and the time."""
        if self.predicts != "flow":
            return x_t, t
        times = self.time_scale * self.schedule.sigma(t)
        return broadcast(self.schedule.flow_scale(t), x_t) * x_t, times.float().to(x_t.device)

    def to_epsilon(self, x_t: Latents, t: Timesteps, prediction: Latents) -> Latents:
        """ε̂ from what the network predicts for x_t, in x_t's dtype."""
        exact = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        match self.predicts:
            case "epsilon":
                epsilon = prediction
            case "v_prediction":
                epsilon = self.schedule.velocity_to_epsilon(exact, t, prediction)
            case "sample":
                epsilon = self.schedule.sample_to_epsilon(exact, t, prediction)
            case "flow":
                epsilon = self.schedule.flow_to_epsilon(exact, t, prediction)
        return epsilon.to(x_t.dtype)

    def target(self, x0: Latents, eps: Latents, t: Timesteps) -> Latents:
        """What the network should predict of x⁰ noised by ε: what it is trained towards."""
        match self.predicts:
            case "epsilon":
                return eps
            case "v_prediction":
                alpha_bar = self.schedule.alpha_bar(t)
                return broadcast(alpha_bar.sqrt(), eps) * eps - broadcast((1 - alpha_bar).sqrt(), x0) * x0
            case "sample":
                return x0
            case "flow":
                return eps - x0
