"""Where two prompts make a difference in a view: what the prior would change, and what words name."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.relevance import prediction_difference
from pds_nerfstudio.pipelines.shown import ShownViews
from pds_nerfstudio.pipelines.source_views import SourceView

DRAWS = 6
"""Of timestep and noise, for each view."""


@torch.no_grad()
def prompt_difference(
    prior: Any,
    shown: ShownViews,
    source: SourceView,
    prompts: tuple[str, str],
    timesteps: tuple[float, float],
    seed: int,
) -> Float[Tensor, "height width"]:
    """Mean |ε̂ under one prompt − ε̂ under the other| over draws, at the latent's size (see `objectives.relevance`).

    Args:
        timesteps: the range that they are drawn from, as fractions of T.
        seed: of timesteps and noise, the same for every view.

    Raises:
        UserError: the prior's answer is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = (round(share * prior.schedule.num_steps) for share in timesteps)
    t = torch.randint(low, high, (DRAWS,), generator=generator)
    eps = torch.randn(DRAWS, *source.latent.shape[1:], generator=generator).to(source.latent)
    x0 = source.latent.expand(DRAWS, -1, -1, -1)
    cameras = shown.seen_from([source.index] * DRAWS)
    difference = prediction_difference(prior, x0, *prompts, t, eps, cameras).mean(0)
    require_finite(difference, shown.names[source.index])
    return difference


def require_finite(found: Tensor, view: str) -> None:
    """Raise UserError where what the prior predicts of a view is not finite."""
    if not bool(found.isfinite().all()):
        raise UserError(
            f"What the prior predicts of view {view} is not finite: use --pipeline.precision fp32, or another prior."
        )
