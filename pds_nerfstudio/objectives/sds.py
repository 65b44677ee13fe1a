"""Score Distillation Sampling (Poole et al. 2022, DreamFusion; Koo et al. 2024, eq. 3).

    g = w(t) (ε̂(x_t, t, y_tgt) − ε)

Why it works: ε̂ − ε is proportional to x⁰ − x̃⁰(x_t, ε̂), so descending it moves x⁰ to what the prior would denoise x_t
to, a mode of p(x⁰ | y_tgt). The trap: nothing in it knows the source, so an edit forgets its scene.
"""

from dataclasses import dataclass

import torch

from pds_nerfstudio.objectives.base import Edit, Prior, ScoreDistillation, Weighting, score_weight
from pds_nerfstudio.objectives.schedule import Latents, broadcast


@dataclass(frozen=True)
class SDS(ScoreDistillation):
    """Score Distillation Sampling."""

    weighting: Weighting = "variance"
    """w(t): "variance" is 1 − ᾱ_t (Poole et al. 2022), "unit" is 1."""

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """w(t) (ε̂_tgt − ε)."""
        x_t = prior.schedule.add_noise(edit.x0_tgt, edit.t, edit.eps)
        (eps_hat,) = prior.predict_noise([edit.query(x_t, edit.tgt_prompt, self.guidance_scale)])
        weight = score_weight(prior.schedule, edit.t, self.weighting)
        return broadcast(weight, eps_hat) * (eps_hat - edit.eps)
