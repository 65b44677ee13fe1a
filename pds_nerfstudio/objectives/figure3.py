"""Koo et al. 2024, figure 3, without a network: points of one marginal are edited towards the other.

x⁰ is a point of the plane and the prior an exact mixture of two marginals, p(x⁰ | "left") and p(x⁰ | "right"). They are
mirror images, so the vertical axis is the boundary on which both are equally likely. The scene *is* x⁰ here (its
Jacobian is one): what is seen is the objective alone.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from pds_nerfstudio.objectives.base import Edit, Objective
from pds_nerfstudio.objectives.mixture import GaussianMixturePrior
from pds_nerfstudio.objectives.schedule import NoiseSchedule

SOURCE, TARGET = "left", "right"


def two_marginals(modes: int = 16, radius: float = 1.2, std: float = 0.22) -> GaussianMixturePrior:
    """Two facing half rings, each a chain of equal Gaussian modes."""
    angle = torch.linspace(-0.4, 0.4, modes, dtype=torch.float64) * math.pi
    right = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    left = right * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    return GaussianMixturePrior(
        schedule=NoiseSchedule.scaled_linear(),
        means=torch.cat([left, right]),
        stds=torch.full((2 * modes,), std, dtype=torch.float64),
        labels=(SOURCE,) * modes + (TARGET,) * modes,
    )


def starting_points(prior: GaussianMixturePrior, count: int, generator: torch.Generator) -> Float64[Tensor, "count 2"]:
    """Draws from p(x⁰ | "left")."""
    modes = torch.tensor([k for k, label in enumerate(prior.labels) if label == SOURCE])
    k = modes[torch.randint(len(modes), (count,), generator=generator)]
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return prior.means[k] + prior.stds[k, None] * noise


def trajectories(
    objective: Objective,
    prior: GaussianMixturePrior,
    start: Float64[Tensor, "count 2"],
    generator: torch.Generator,
    steps: int = 300,
    draws: int = 16,
    step_size: float = 0.3,
) -> Float64[Tensor, "count time 2"]:
    """Gradient descent of every point from start, all positions including the first (time = steps + 1).

    A step averages the gradient over some draws of (t, s, ε_t, ε_s), and its size falls to zero along a half cosine:
    end points then depend on the expected gradient only, not on the order of the noise.
    """
    count = len(start)
    x0_src = start[..., None, None].repeat_interleave(draws, dim=0)
    path = [start]
    for step in range(steps):
        t, s = objective.sample_timesteps(prior.schedule, count * draws, generator)
        eps, eps_s = torch.randn(2, count * draws, 2, 1, 1, generator=generator, dtype=torch.float64)
        x0_tgt = path[-1][..., None, None].repeat_interleave(draws, dim=0)
        g = objective.gradient(prior, Edit(x0_tgt, x0_src, SOURCE, TARGET, t, s, eps, eps_s))
        mean_gradient = g.reshape(count, draws, 2).mean(dim=1)
        path.append(path[-1] - step_size * 0.5 * (1 + math.cos(math.pi * step / steps)) * mean_gradient)
    return torch.stack(path, dim=1)
