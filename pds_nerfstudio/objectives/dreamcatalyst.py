"""DreamCatalyst (Kim et al. 2024): DDS and a pull back to the source, both of which grow with the noise.

    g = 0.75 t̄^(1/e) (ε̂_tgt − ε̂_src) + 0.075 e^t̄ (x_t^tgt − x_t^src),    t̄ = t/T

The noisy latents share their noise, so that their difference is √ᾱ_t (x⁰_tgt − x⁰_src): g has PDS's form with other
weights (`PDS.weighting` "dreamcatalyst" is the same).

Why it works: PDS holds on to the source most where there is little noise and little to decide, and so hardly at all
where shapes are decided. Here the hold lasts over all timesteps, and the prompt counts most where it can still change
the shape. The trap: at a rest point both terms cancel, so that an edit stops short of its prompt by what the source
pulls. The paper's falling timesteps and its re-weighted U-Net (FreeU) are not part of this file.
"""

import math
from dataclasses import dataclass

import torch

from pds_nerfstudio.objectives.base import Edit, Prior, ScoreDistillation, predict_pair
from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule, PerSample, Timesteps, broadcast
from pds_nerfstudio.ranges import Guidance, Weight

CHANGE, HOLD = 0.75, 0.075


@dataclass(frozen=True)
class DreamCatalyst(ScoreDistillation):
    """DDS and a pull back to the source, weighted by timestep."""

    guidance_scale: Guidance = 7.5
    """Classifier-free guidance ω (Kim et al. 2024)."""
    change: Weight = CHANGE
    """Weight of the change that the prompts ask for, times (t/T)^(1/e)."""
    hold: Weight = HOLD
    """Weight of the pull back to the source's noisy latent, times e^(t/T). Less of it lets the edit go further."""

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """Both terms."""
        eps_tgt, eps_src = predict_pair(prior, edit, self.guidance_scale)
        hold, change = weights(prior.schedule, edit.t, self.hold, self.change)
        away, asked = edit.x0_tgt - edit.x0_src, eps_tgt - eps_src
        return broadcast(hold, away) * away + broadcast(change, asked) * asked


def weights(
    schedule: NoiseSchedule, t: Timesteps, hold: float = HOLD, change: float = CHANGE
) -> tuple[PerSample, PerSample]:
    """What multiplies x⁰_tgt − x⁰_src, and what multiplies ε̂_tgt − ε̂_src; float64."""
    share = t.cpu().double() / schedule.num_steps
    return hold * share.exp() * schedule.alpha_bar(t).sqrt(), change * share ** (1 / math.e)
