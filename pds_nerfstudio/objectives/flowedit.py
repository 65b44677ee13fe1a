"""FlowEdit (Kulikov et al. 2024): from one picture to another along the difference of two velocities.

    z ← z + (σ' − σ) [v̂(z + x_σ^src − x⁰, y_tgt) − v̂(x_σ^src, y_src)]      x_σ^src = (1−σ) x⁰ + σ ε, ε new each step

from z = x⁰ at the noisiest step down to the image, where σ' is the next smaller σ. Why it works: no step inverts the
picture, so that errors of an inversion do not add up. v̂ = (ε̂ − x_σ)/(1−σ), of any prior that answers with ε̂.

It edits images and is no objective: it has no gradient. The trap: where σ is 1 the velocity does not follow from ε̂; the
noisiest step has to lie below.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives.base import Prior, Query
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.schedule import Latents, broadcast
from pds_nerfstudio.objectives.sdedit import CLEAN, PartOfTheWay, ddim_steps
from pds_nerfstudio.ranges import Guidance, Share, Steps

NOISIEST = 0.98
"""Greatest share of the steps at which an edit may begin."""


@dataclass(frozen=True)
class FlowEdit(PartOfTheWay):
    """Raises ValueError for a strength outside [0, 1] or fewer than one step."""

    guidance_scale: Guidance = 13.5
    """ω under the target's prompt, for Stable Diffusion 3 (the paper)."""
    src_guidance_scale: Guidance = 3.5
    """ω under the source's prompt."""
    strength: Share = 0.66
    """t of the noisiest step as a fraction of T, in [0, 1]: the paper runs 33 of 50 steps. At most 0.98 is taken."""
    num_steps: Steps = 50
    """Steps from T down to the image, of which the share `strength` is run."""

    @torch.no_grad()
    def edit(
        self,
        prior: Prior,
        x0: Latents,
        src_prompt: str,
        tgt_prompt: str,
        eps: Float[Tensor, "steps batch channels height width"],
        cameras: Viewpoints | None = None,
    ) -> Latents:
        """The latent of `x0` as it is under the other prompt.

        Args:
            eps: independent noise for each step that is run (see `steps_run`); more is ignored.
            cameras: where the samples are seen from, for priors that take cameras.
        """
        schedule = prior.schedule
        steps = ddim_steps(schedule, min(self.strength, NOISIEST), self.steps_run)
        latents = x0
        for (t, s), noise in zip(itertools.pairwise(steps), eps, strict=False):
            t_batch = t.expand(len(x0))
            x_t_src = schedule.add_noise(x0, t_batch, noise)
            scale = broadcast(schedule.flow_scale(t_batch), x0)
            x_t_tgt = x_t_src + (latents - x0) / scale
            source, target = prior.predict_noise(
                [
                    Query(x_t_src, t_batch.to(x0.device), src_prompt, self.src_guidance_scale, cameras=cameras),
                    Query(x_t_tgt, t_batch.to(x0.device), tgt_prompt, self.guidance_scale, cameras=cameras),
                ]
            )
            sigma = schedule.sigma(t_batch)
            following = torch.zeros_like(sigma) if s == CLEAN else schedule.sigma(s.expand(len(x0)))
            velocity = (target - source - (latents - x0)) / broadcast(1 - sigma, x0)
            latents = latents + broadcast(following - sigma, x0) * velocity
        return latents
