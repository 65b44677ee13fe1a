"""Perturb-and-Revise (Hong et al. 2024): how far to perturb, and how to revise. Plain functions, no state.

    θ ← (1−η) θ_src + η θ₀            θ₀ a fresh draw of the representation's own initialisation        (Alg. 1)
    η = max(0, η_max (1 − 2^(−(ΔL + Δ_min)/Δ_min)))                                                     (Alg. 2)
    t ~ U[lo, hi], from [0.75, 0.75] linearly to [0.02, 0.40] at 80 % of the edit, constant from there  (sec. E)
    + λ_p · perceptual(I, I_src) + λ_L1 · |I − I_src|₁ in a second stage, both falling to 0 at its half (sec. E)

Why it works: score distillation follows the particle it is given, and a finished scene is a deep minimum of the
renderer, which colours leave more easily than shapes. Part of the way back to a random scene every shape is nearer.

The traps: ΔL is final − initial, negative where the loss falls; Δ_min = 1000 belongs to one prior's loss scale; and
section E prints λ_L1 = 300 and λ_p = 30000, which the paper's own table 2 and its release have the other way round.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives.base import ScoreDistillation

Images = Float[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch _ _ _"]

PAPERS_MINIMUM_DECREASE = 1000.0
"""Δ_min of Hong et al. 2024, in the loss of MVDream: summed over 4×32×32 latents, averaged over four views, ω = 50."""


def interpolate(source: Float[Tensor, "*shape"], fresh: Float[Tensor, "*shape"], eta: float) -> Float[Tensor, "*shape"]:
    """(1−η) θ_src + η θ₀ (Alg. 1): bit for bit θ_src at η = 0 and θ₀ at η = 1.

    Raises ValueError for η outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: it must lie in [0, 1], the source scene and a fresh draw.")
    if eta in (0, 1):
        return (fresh if eta else source).clone()
    return (1 - eta) * source + eta * fresh


def loss_increase(losses: Sequence[float], window: int = 10) -> float:
    """ΔL of Alg. 2: the mean of the last `window` losses minus that of the first; negative where the loss fell.

    Raises ValueError for fewer losses than two windows.
    """
    if len(losses) < 2 * window:
        raise ValueError(f"{len(losses)} losses were recorded: the probe needs at least {2 * window}.")
    return (sum(losses[-window:]) - sum(losses[:window])) / window


def choose_eta(increase: float, minimum_decrease: float = PAPERS_MINIMUM_DECREASE, maximum: float = 0.6) -> float:
    """η of Alg. 2: 0 where the loss fell by Δ_min or more, η_max/2 where it stayed, towards η_max where it rose.

    Args:
        increase: ΔL, see `loss_increase`.
        minimum_decrease: Δ_min, in the units of the loss.
        maximum: η_max.

    Raises:
        ValueError: `minimum_decrease` is not positive, or `maximum` lies outside [0, 1].
    """
    if minimum_decrease <= 0:
        raise ValueError(f"minimum_decrease is {minimum_decrease}: it is a size of loss, greater than 0.")
    if not 0 <= maximum <= 1:
        raise ValueError(f"maximum is {maximum}: eta lies in [0, 1].")
    halvings = (increase + minimum_decrease) / minimum_decrease
    return maximum * (1 - 2 ** -min(halvings, 1000.0)) if halvings > 0 else 0.0


def annealed_range(
    progress: float,
    start: tuple[float, float] = (0.75, 0.75),
    end: tuple[float, float] = (0.02, 0.40),
    until: float = 0.8,
) -> tuple[float, float]:
    """(lo, hi) of the timesteps, as fractions of T, at `progress` in [0, 1] of the stage (sec. E).

    Linear from `start` to `end`, which is reached at `until`.
    """
    along = min(max(progress / until, 0.0), 1.0) if until > 0 else 1.0
    low, high = (a + along * (b - a) for a, b in zip(start, end, strict=True))
    return low, high


def falling_weight(progress: float, until: float = 0.5) -> float:
    """Factor on the identity-preserving losses at `progress` in [0, 1] of the refinement: from 1 to 0 at `until`."""
    return max(0.0, 1 - progress / until) if until > 0 else 0.0


def identity_loss(
    image: Images,
    source: Images,
    perceptual: Callable[[Images, Images], Float[Tensor, ""]],
    weight_l1: float = 30_000.0,
    weight_perceptual: float = 300.0,
) -> Float[Tensor, ""]:
    """What pulls a rendering back to the source's of the same view (sec. 4.3 and E; weights as in its table 2).

    The L1 distance is the mean over pixels and channels, the perceptual one the sum over views; both stand beside a
    score loss that is summed over latents.
    """
    loss = weight_l1 * (image - source).abs().mean()
    return loss + weight_perceptual * perceptual(image, source) if weight_perceptual else loss


def feature_distance(features: Sequence[Features], reference: Sequence[Features]) -> Float[Tensor, ""]:
    """LPIPS's form without its learned channel weights (Zhang et al. 2018, eq. 1): the squared difference of
    activations normalised over channels, averaged over positions, summed over layers and views."""
    terms = []
    for a, b in zip(features, reference, strict=True):
        unit_a, unit_b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-8) for x in (a.float(), b.float()))
        terms.append((unit_a - unit_b).square().sum(1).mean((1, 2)).sum())
    return torch.stack(terms).sum()


def with_range(objective: ScoreDistillation, steps: tuple[float, float]) -> ScoreDistillation:
    """The same objective over another range of timesteps, (lo, hi) as fractions of T."""
    return replace(objective, min_step_percent=steps[0], max_step_percent=steps[1])
