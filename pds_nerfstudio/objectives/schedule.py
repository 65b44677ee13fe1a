"""The prior's noise schedule and its forward process, all of it derived from ᾱ in float64.

    x_t = √ᾱ_t x⁰ + √(1−ᾱ_t) ε                     (Koo et al. 2024, eq. 2)

A flow prior (Liu et al. 2023; Stable Diffusion 3) is one of these in other units, 1 − σ of the image and σ of noise:

    x_σ = (1−σ) x⁰ + σ ε = x_t/n,   n = √ᾱ_t + √(1−ᾱ_t) = 1/√((1−σ)² + σ²),   ᾱ_t = (1−σ)² n²,   1−ᾱ_t = σ² n²
    v = ε − x⁰,   ε̂ = x_σ + (1−σ) v

so that every objective runs on it unchanged, once it answers with ε̂.

The trap: α_t and β_t always belong to the *single* transition t−1 → t. The coefficient of a longer jump s → t
is ᾱ_t/ᾱ_s, and which of the two a formula means decides whether PDS preserves identity at all (see `pds.py`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

Latents = Float[Tensor, "batch channels height width"]
Timesteps = Int64[Tensor, "batch"]
PerSample = Float64[Tensor, "batch"]


def broadcast(coefficient: PerSample, latents: Latents) -> Float[Tensor, "batch 1 1 1"]:
    """One number per sample, in the latents' dtype and device and shaped to multiply them."""
    # The dtype goes first: not every device has float64.
    return coefficient.to(latents.dtype).to(latents.device)[:, None, None, None]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """ᾱ of a discrete diffusion prior, and everything that follows from it.

    Coefficients are looked up on the CPU in float64 and come back as float64 `[batch]`; latents keep their dtype and
    device. Timesteps are zero-based, t in [0, T): t = 0 is the first noisy step, as in diffusers. Timesteps kept
    on the CPU avoid a synchronisation per look-up.
    """

    alphas_cumprod: Float64[Tensor, " steps"]
    """ᾱ_t for t = 0 … T−1, falling strictly inside (0, 1); only the last may be 0 (zero terminal SNR)."""

    def __post_init__(self) -> None:
        table = self.alphas_cumprod
        if table.ndim != 1 or len(table) < 2 or table.dtype != torch.float64 or table.device.type != "cpu":
            raise ValueError(
                f"alphas_cumprod is {table.dtype} of shape {list(table.shape)} on {table.device}: it must be float64, "
                "one-dimensional and on the CPU; build the schedule with NoiseSchedule.from_alphas_cumprod."
            )
        if not (bool((table[1:] < table[:-1]).all()) and float(table[0]) < 1 and float(table[-1]) >= 0):
            raise ValueError(
                f"alphas_cumprod runs from {float(table[0]):.6g} to {float(table[-1]):.6g}: it must fall strictly "
                "and stay within [0, 1); pass the running product of 1 − β."
            )

    def __repr__(self) -> str:
        first, last = float(self.alphas_cumprod[0]), float(self.alphas_cumprod[-1])
        return f"NoiseSchedule({self.num_steps} steps, ᾱ from {first:.4g} to {last:.4g})"

    @classmethod
    def scaled_linear(
        cls, beta_start: float = 0.00085, beta_end: float = 0.012, num_steps: int = 1000
    ) -> "NoiseSchedule":
        """Stable Diffusion's schedule: √β is linear in t."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, dim=0))

    @classmethod
    def flow(cls, num_steps: int = 1000, shift: float = 1.0) -> "NoiseSchedule":
        """Straight lines from image to noise in steps of σ: σ_t = (t + 1)/T, shifted to s σ/(1 + (s − 1) σ).

        A shift s above 1 spends more steps on noisier pictures, as larger ones need (Esser et al. 2024, section
        5.3.2: √(pixels / pixels at which 1 is right)). The last step is noise alone, ᾱ = 0.
        """
        sigma = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        return cls((1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Float[Tensor, " steps"]) -> "NoiseSchedule":
        """A prior's own table, `scheduler.alphas_cumprod` in diffusers, on any device and in any precision."""
        return cls(alphas_cumprod.detach().cpu().double())

    @property
    def num_steps(self) -> int:
        """T, the number of training steps."""
        return len(self.alphas_cumprod)

    def alpha_bar(self, t: Timesteps) -> PerSample:
        """ᾱ_t. Raises ValueError for t outside [0, T), which plain indexing would wrap around."""
        t = t.cpu()
        if bool((t < 0).any()) or bool((t >= self.num_steps).any()):
            raise ValueError(f"t is {t.tolist()}: it must lie in [0, {self.num_steps}), the steps of this schedule.")
        return self.alphas_cumprod[t]

    def alpha(self, t: Timesteps) -> PerSample:
        """α_t = ᾱ_t/ᾱ_{t−1} of the single transition t−1 → t, with ᾱ_{−1} = 1."""
        alpha_bar = self.alpha_bar(t)
        t = t.cpu()
        previous = torch.where(t > 0, self.alphas_cumprod[(t - 1).clamp(min=0)], 1.0)
        return alpha_bar / previous

    def beta(self, t: Timesteps) -> PerSample:
        """β_t = 1 − α_t of the single transition t−1 → t."""
        return 1 - self.alpha(t)

    def sigma(self, t: Timesteps) -> PerSample:
        """σ_t = √(1−ᾱ_t)/(√ᾱ_t + √(1−ᾱ_t)) in [0, 1], the time of a flow that has the same share of noise."""
        return (1 - self.alpha_bar(t)).sqrt() * self.flow_scale(t)

    def flow_scale(self, t: Timesteps) -> PerSample:
        """1/n, which turns x_t into x_σ."""
        alpha_bar = self.alpha_bar(t)
        return 1 / (alpha_bar.sqrt() + (1 - alpha_bar).sqrt())

    def add_noise(self, x0: Latents, t: Timesteps, eps: Latents) -> Latents:
        """x_t = √ᾱ_t x⁰ + √(1−ᾱ_t) ε (Koo et al. 2024, eq. 2)."""
        signal, noise = self._signal_and_noise(t, x0)
        return signal * x0 + noise * eps

    def predict_x0(self, x_t: Latents, t: Timesteps, eps: Latents) -> Latents:
        """x̃⁰ = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t (Koo et al. 2024, eq. 7); not finite where ᾱ_t is 0."""
        signal, noise = self._signal_and_noise(t, x_t)
        return (x_t - noise * eps) / signal

    def velocity_to_epsilon(self, x_t: Latents, t: Timesteps, velocity: Latents) -> Latents:
        """ε = √ᾱ_t v + √(1−ᾱ_t) x_t, for priors that predict v = √ᾱ_t ε − √(1−ᾱ_t) x⁰ (Salimans & Ho 2022)."""
        signal, noise = self._signal_and_noise(t, x_t)
        return signal * velocity + noise * x_t

    def flow_to_epsilon(self, x_t: Latents, t: Timesteps, velocity: Latents) -> Latents:
        """ε = x_σ + (1−σ) v, for priors that predict v = ε − x⁰ of x_σ (Liu et al. 2023)."""
        scale, sigma = broadcast(self.flow_scale(t), x_t), broadcast(self.sigma(t), x_t)
        return scale * x_t + (1 - sigma) * velocity

    def sample_to_epsilon(self, x_t: Latents, t: Timesteps, x0: Latents) -> Latents:
        """ε = (x_t − √ᾱ_t x⁰)/√(1−ᾱ_t), for priors that predict x⁰ (`prediction_type="sample"`)."""
        signal, noise = self._signal_and_noise(t, x_t)
        return (x_t - signal * x0) / noise

    def _signal_and_noise(self, t: Timesteps, latents: Latents) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alpha_bar(t)
        return broadcast(alpha_bar.sqrt(), latents), broadcast((1 - alpha_bar).sqrt(), latents)
