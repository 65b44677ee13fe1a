"""Where a prior would change an image (DiffEdit; Couairon et al. 2022, section 3.2, step 1).

    r = E_{t, ε} |ε̂(x_t, t, y_tgt) − ε̂(x_t, t, y_src)|,   averaged over channels, t of middle noise

Why it works: where both prompts explain the noisy image alike, the two predictions agree. The map needs no edit to have
begun and covers empty space that something is to fill, which a mask of the source object does not.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives.base import Prior, Query
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.schedule import Latents, Timesteps

MIDDLE = (0.4, 0.6)
"""Timesteps that tell most, as fractions of T; Couairon et al. 2022 take half of the noise too."""
RELEVANT = 2.0
"""A point counts as relevant from this multiple of its image's mean difference on."""


@torch.no_grad()
def prediction_difference(
    prior: Prior,
    x0: Latents,
    src_prompt: str,
    tgt_prompt: str,
    t: Timesteps,
    eps: Latents,
    cameras: Viewpoints | None = None,
) -> Float[Tensor, "batch height width"]:
    """|ε̂_tgt − ε̂_src| of every sample at its own t and ε, without guidance, as a mean over channels."""
    x_t = prior.schedule.add_noise(x0, t, eps)
    queries = [Query(x_t, t, prompt, cameras=cameras) for prompt in (tgt_prompt, src_prompt)]
    target, source = prior.predict_noise(queries)
    return (target - source).abs().mean(1)


def relevance(difference: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """A map of differences as relevance in [0, 1]: 0.5 at `RELEVANT` times its mean; zero where all is equal."""
    return (difference / (2 * RELEVANT * difference.mean()).clamp(min=1e-12)).clamp(0, 1)
