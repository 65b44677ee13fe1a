"""A diffusion prior whose noise prediction is known exactly: a Gaussian mixture with one label per mode.

    p_t(x | y) = Σ_k w_k N(x; √ᾱ_t m_k, v_k I),   v_k = ᾱ_t d_k² + 1 − ᾱ_t,   k over the modes labelled y
    ε̂(x_t, t, y) = −√(1−ᾱ_t) ∇ log p_t(x_t | y)                       (score and noise: Song et al. 2021)

Noise keeps a mixture a mixture, so nothing is trained and nothing approximated: what an objective does on this prior is
what it does by construction. With two-dimensional latents it is the prior of Koo et al. 2024, figure 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pds_nerfstudio.objectives.base import Query, guided
from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule, Timesteps, broadcast


@dataclass(frozen=True, eq=False)
class GaussianMixturePrior:
    """Isotropic Gaussian modes over latents of C·h·w dimensions; a prompt names the label whose modes it selects.

    The empty prompt is the unconditional prior, all modes. Everything is computed in the latents' dtype. Raises
    ValueError for means, deviations and labels of different lengths, and for a prompt that is no label.
    """

    schedule: NoiseSchedule
    means: Float64[Tensor, "modes dims"]
    """m_k, flattened latents."""
    stds: Float64[Tensor, " modes"]
    """d_k > 0, the standard deviation of every dimension."""
    labels: tuple[str, ...]
    """The prompt each mode belongs to; several modes may share one."""
    weights: Float64[Tensor, " modes"] | None = None
    """w_k > 0, up to a factor; None is uniform."""

    def __post_init__(self) -> None:
        lengths = {"means": len(self.means), "stds": len(self.stds), "labels": len(self.labels)}
        if self.weights is not None:
            lengths["weights"] = len(self.weights)
        if len(set(lengths.values())) != 1:
            raise ValueError(f"The lengths {lengths} differ: give every mode one of each.")

    def predict_noise(self, queries: Sequence[Query]) -> list[Latents]:
        """ε̂ of every query under guidance; ω = 1 is exactly the conditional prediction."""
        return [self._guided(query) for query in queries]

    def log_density(self, x_t: Latents, t: Timesteps, prompt: str) -> Float[Tensor, " batch"]:
        """log p_t(x_t | y), normalised."""
        return torch.logsumexp(self._log_joint(x_t, t, prompt)[0], dim=1)

    def _guided(self, query: Query) -> Latents:
        conditional = self._epsilon(query.noisy_latents, query.t, query.prompt)
        if query.guidance_scale == 1:
            return conditional
        return guided(self._epsilon(query.noisy_latents, query.t, ""), conditional, query.guidance_scale)

    def _epsilon(self, x_t: Latents, t: Timesteps, prompt: str) -> Latents:
        log_joint, from_mean, variance = self._log_joint(x_t, t, prompt)
        responsibility = torch.softmax(log_joint, dim=1)
        minus_score = ((responsibility / variance)[..., None] * from_mean).sum(1).reshape(x_t.shape)
        return broadcast((1 - self.schedule.alpha_bar(t)).sqrt(), x_t) * minus_score

    def _log_joint(self, x_t: Latents, t: Timesteps, prompt: str) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x_t; …) [batch modes], x_t − √ᾱ_t m_k [batch modes dims] and v_k [batch modes]."""
        chosen = [k for k, label in enumerate(self.labels) if prompt in ("", label)]
        if not chosen:
            known = ", ".join(sorted(set(self.labels)))
            raise ValueError(f'prompt is "{prompt}": this mixture knows {known}, and "" for all of them.')
        means, stds = self.means[chosen].to(x_t), self.stds[chosen].to(x_t)
        weights = torch.ones_like(stds) if self.weights is None else self.weights[chosen].to(x_t)
        alpha_bar = self.schedule.alpha_bar(t).to(x_t)[:, None]
        variance = alpha_bar * stds**2 + 1 - alpha_bar
        from_mean = x_t.flatten(1)[:, None] - alpha_bar.sqrt()[..., None] * means
        log_normal = -0.5 * (from_mean.square().sum(-1) / variance + means.shape[1] * (2 * torch.pi * variance).log())
        return (weights / weights.sum()).log() + log_normal, from_mean, variance
