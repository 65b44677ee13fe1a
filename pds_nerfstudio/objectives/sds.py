"""Score Distillation Sampling (Poole et al. 2022, DreamFusion; Koo et al. 2024, eq. 3).

    g = w(t) (ε̂(x_t, t, y_tgt) − ε)

Why it works: ε̂ − ε is proportional to x⁰ − x̃⁰(x_t, ε̂), so descending it moves x⁰ to what the prior would denoise x_t
to, a mode of p(x⁰ | y_tgt). The trap: nothing in it knows the source, so an edit forgets its scene.

MVDream's form (Shi et al. 2023), which Perturb-and-Revise's release uses for objects, descends ½‖x⁰ − x̂⁰‖² with

    x̂⁰ = (1 − r) x̃⁰(ε̂) + r · std(x̃⁰(ε_y)) / std(x̃⁰(ε̂)) · x̃⁰(ε̂),        r = 0.5

x̃⁰(ε_y) being the prediction without guidance, whose contrast a large ω exaggerates. It is the same g with
w = √(1/ᾱ_t − 1) and with ε̂ replaced by the noise that x̂⁰ stands for.
"""

from dataclasses import dataclass

import torch

from pds_nerfstudio.objectives.base import (
    Edit,
    Prior,
    ScoreDistillation,
    Weighting,
    guided,
    score_weight,
)
from pds_nerfstudio.objectives.schedule import Latents, broadcast
from pds_nerfstudio.ranges import Share


@dataclass(frozen=True)
class SDS(ScoreDistillation):
    """Score Distillation Sampling. Its ω of 100 is Poole et al.'s own, and that of Koo et al. 2024's comparison."""

    weighting: Weighting = "variance"
    """w(t): "variance" is 1 − ᾱ_t (Poole et al. 2022), "unit" is 1, "reconstruction" is √(1/ᾱ_t − 1), which makes g
    the difference of x⁰ and its reconstruction (Shi et al. 2023)."""
    guidance_rescale: Share = 0.0
    """How far the reconstruction's standard deviation is brought back to that of the unguided one, in [0, 1]; 0.5 in
    Shi et al. 2023 and in the release of Hong et al. 2024."""

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """w(t) (ε̂_tgt − ε)."""
        x_t = prior.schedule.add_noise(edit.x0_tgt, edit.t, edit.eps)
        eps_hat = self._rescaled(prior, edit, x_t) if self.guidance_rescale else self._guided(prior, edit, x_t)
        weight = score_weight(prior.schedule, edit.t, self.weighting)
        return broadcast(weight, eps_hat) * (eps_hat - edit.eps)

    def _guided(self, prior: Prior, edit: Edit, x_t: Latents) -> Latents:
        (eps_hat,) = prior.predict_noise([edit.query(x_t, edit.tgt_prompt, self.guidance_scale)])
        return eps_hat

    def _rescaled(self, prior: Prior, edit: Edit, x_t: Latents) -> Latents:
        """ε̂ whose x̃⁰ is x̂⁰ above; views that the prior draws together share one standard deviation."""
        # ω = 0 and ω = 1 take as many passes of the network as ω alone.
        asked = [edit.query(x_t, edit.tgt_prompt, omega) for omega in (0.0, 1.0)]
        unconditional, conditional = prior.predict_noise(asked)
        eps_hat = guided(unconditional, conditional, self.guidance_scale)
        plain, strong = (prior.schedule.predict_x0(x_t, edit.t, eps) for eps in (conditional, eps_hat))
        together = 1 if edit.cameras is None else edit.cameras.together
        ratio = _deviation(plain, together) / _deviation(strong, together).clamp(min=1e-8)
        rescaled = (1 + self.guidance_rescale * (ratio - 1)) * strong
        return prior.schedule.sample_to_epsilon(x_t, edit.t, rescaled)


def _deviation(x0: Latents, together: int) -> torch.Tensor:
    """Standard deviation over all values of each group of `together` samples, once per sample: [B 1 1 1]."""
    groups = x0.reshape(len(x0) // together, -1).std(dim=1)
    return groups.repeat_interleave(together)[:, None, None, None]
