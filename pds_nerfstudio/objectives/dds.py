"""Delta Denoising Score (Hertz et al. 2023; Koo et al. 2024, eqs. 4 and 5).

    g = w(t) (ε̂(x_t^tgt, t, y_tgt) − ε̂(x_t^src, t, y_src)),   the same ε in x_t^tgt and x_t^src

Why it works: what SDS would do to the untouched source is its noisy direction, and subtracting it leaves the
part that the change of prompt causes. The trap: x⁰_src only calibrates that direction; no term pulls x⁰_tgt back to it.
"""

from dataclasses import dataclass

import torch

from pds_nerfstudio.objectives.base import Edit, Prior, ScoreDistillation, Weighting, predict_pair, score_weight
from pds_nerfstudio.objectives.schedule import Latents, broadcast
from pds_nerfstudio.ranges import Guidance


@dataclass(frozen=True)
class DDS(ScoreDistillation):
    """Delta Denoising Score."""

    guidance_scale: Guidance = 7.5
    """Classifier-free guidance ω (Hertz et al. 2023). Koo et al. 2024 (S.3) compare at PDS's 100."""
    weighting: Weighting = "unit"
    """w(t): "unit" is 1, as in the releases of Hertz et al. 2023 and Koo et al. 2024; "variance" is 1 − ᾱ_t, which
    leaves 0.02 of the gradient at t = 21; "reconstruction" is √(1/ᾱ_t − 1)."""

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """w(t) (ε̂_tgt − ε̂_src)."""
        eps_tgt, eps_src = predict_pair(prior, edit, self.guidance_scale)
        weight = score_weight(prior.schedule, edit.t, self.weighting)
        return broadcast(weight, eps_tgt) * (eps_tgt - eps_src)
