"""Posterior Distillation Sampling (Koo et al. 2024, eqs. 6 to 14; supplement S.2).

    z̃ = (x_s − μ(x_t, ε̂))/σ,   μ = γ x̃⁰(x_t, ε̂) + δ x_t,   s < t                          (eqs. 7 to 9)
    g = z̃_tgt − z̃_src,         the same ε_t and ε_s for source and target                   (eq. 13, w = 1)
      = (k/σ)(x⁰_tgt − x⁰_src) + (γ√(1/ᾱ_t − 1)/σ)(ε̂_tgt − ε̂_src),   k = √ᾱ_s − γ − δ√ᾱ_t   (S.2, eq. 10)

Why it works: z̃ is the noise that the sampler would have had to draw to step from x_t to x_s, so it records the image;
matching it under another prompt asks for DDS's change while the first term holds on to the source.

The trap: s is the previous *sampled* step, two training steps before t, and the weight of that first term is decided by
which β enters γ, δ and σ. With the single-step β_t of the paper and its release the term is there. With the
exact posterior of the jump s → t (β := 1 − ᾱ_t/ᾱ_s) it cancels identically, and PDS turns into a re-weighted DDS.
A second one: eq. 6 prints the variance under the name σ_t; z̃ is divided by its square root.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt

from pds_nerfstudio.objectives import dreamcatalyst
from pds_nerfstudio.objectives.base import Edit, Prior, ScoreDistillation, predict_pair, sample_strided
from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule, PerSample, Timesteps, broadcast

Coefficients = Literal["adjacent", "posterior"]


@dataclass(frozen=True, eq=False)
class PosteriorCoefficients:
    """γ, δ and σ of x_s given x_t and x⁰, and the two coefficients of PDS's closed form; float64, one per sample."""

    gamma: PerSample
    """Weight of x̃⁰ in the mean μ."""
    delta: PerSample
    """Weight of x_t in the mean μ."""
    sigma: PerSample
    """Standard deviation (eq. 6 prints its square)."""
    identity: PerSample
    """k/σ, which multiplies x⁰_tgt − x⁰_src."""
    noise: PerSample
    """γ√(1/ᾱ_t − 1)/σ, which multiplies ε̂_tgt − ε̂_src."""

    @property
    def psi(self) -> PerSample:
        """ψ = 2k²/σ² (S.2, eq. 14)."""
        return 2 * self.identity**2

    @property
    def chi(self) -> PerSample:
        """χ = 2kγ√(1/ᾱ_t − 1)/σ² (S.2, eq. 15)."""
        return 2 * self.identity * self.noise


def pds_coefficients(schedule: NoiseSchedule, t: Timesteps, s: Timesteps, mode: Coefficients) -> PosteriorCoefficients:
    """Posterior coefficients of the pair s < t.

    mode "adjacent" takes α and β of the single transition t−1 → t together with ᾱ_s, as the paper and its release do;
    "posterior" those of the jump s → t, which makes q(x_s | x_t, x⁰) exact and `identity` zero. With
    s = t − 1 the two coincide.
    """
    alpha_bar_t, alpha_bar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
    alpha = schedule.alpha(t) if mode == "adjacent" else alpha_bar_t / alpha_bar_s
    beta = 1 - alpha
    gamma = alpha_bar_s.sqrt() * beta / (1 - alpha_bar_t)
    delta = alpha.sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    sigma = ((1 - alpha_bar_s) / (1 - alpha_bar_t) * beta).sqrt()
    return PosteriorCoefficients(
        gamma=gamma,
        delta=delta,
        sigma=sigma,
        identity=(alpha_bar_s.sqrt() - gamma - delta * alpha_bar_t.sqrt()) / sigma,
        noise=gamma * (1 / alpha_bar_t - 1).sqrt() / sigma,
    )


def stochastic_latent(
    schedule: NoiseSchedule,
    x0: Latents,
    t: Timesteps,
    s: Timesteps,
    eps: Latents,
    eps_s: Latents,
    eps_hat: Latents,
    mode: Coefficients = "adjacent",
) -> Latents:
    """z̃ = (x_s − μ(x_t, ε̂))/σ (Koo et al. 2024, eq. 9), eps_hat being the prior's prediction at x_t.

    The difference of two of these is PDS's gradient, by a route that loses digits: σ is about 0.03 where z̃ is 1.
    """
    c = pds_coefficients(schedule, t, s, mode)
    x_t, x_s = schedule.add_noise(x0, t, eps), schedule.add_noise(x0, s, eps_s)
    mean = broadcast(c.gamma, x_t) * schedule.predict_x0(x_t, t, eps_hat) + broadcast(c.delta, x_t) * x_t
    return (x_s - mean) / broadcast(c.sigma, x_t)


@dataclass(frozen=True)
class PDS(ScoreDistillation):
    """Posterior Distillation Sampling. Raises ValueError for settings under which its gradient is zero everywhere."""

    coefficients: Coefficients = "adjacent"
    """Which β the posterior uses: "adjacent" is that of a single step, as in the paper and its release; "posterior"
    that of the pair (t, s), for which the identity term vanishes and PDS is a re-weighted DDS."""
    weighting: Literal["unit", "psi_chi", "dreamcatalyst"] = "unit"
    """The weight w(t). "unit": z̃_tgt − z̃_src itself, as in the release. "psi_chi": the gradient of its square (eq.
    14), 2k/σ times that, which nearly ignores large t. "dreamcatalyst": weights of both terms that grow with t (Kim et
    al. 2024), while PDS's hold on the source falls; dreamcatalyst-edit is the same at a guidance of 7.5."""
    stride: Annotated[int, Ge(1), Lt(1000)] = 2
    """Training steps between s and t. 2 gives the paper's 500 of 1000 steps (S.3); 1 makes the identity term vanish."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting == "psi_chi" and (self.coefficients == "posterior" or self.stride == 1):
            raise ValueError(
                'weighting "psi_chi" multiplies everything by the identity coefficient, which is zero for '
                'coefficients "posterior" and for stride 1: use weighting "unit", or "adjacent" with stride 2.'
            )

    def sample_timesteps(
        self, schedule: NoiseSchedule, batch: int, generator: torch.Generator
    ) -> tuple[Timesteps, Timesteps]:
        """Neighbours t and s = t − stride among the strided steps, uniform over the range (see `sample_strided`)."""
        return sample_strided(
            schedule, batch, generator, self.min_step_percent, self.max_step_percent, stride=self.stride
        )

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """The closed form of z̃_tgt − z̃_src, times w(t). ε_s cancels in it, being shared."""
        eps_tgt, eps_src = predict_pair(prior, edit, self.guidance_scale)
        identity, noise = self.weights(prior.schedule, edit.t, edit.s)
        change, hold = eps_tgt - eps_src, edit.x0_tgt - edit.x0_src
        return broadcast(identity, hold) * hold + broadcast(noise, change) * change

    def weights(self, schedule: NoiseSchedule, t: Timesteps, s: Timesteps) -> tuple[PerSample, PerSample]:
        """What multiplies x⁰_tgt − x⁰_src, and what multiplies ε̂_tgt − ε̂_src; float64."""
        if self.weighting == "dreamcatalyst":
            return dreamcatalyst.weights(schedule, t)
        c = pds_coefficients(schedule, t, s, self.coefficients)
        weight = 2 * c.identity if self.weighting == "psi_chi" else torch.ones_like(c.identity)
        return weight * c.identity, weight * c.noise
