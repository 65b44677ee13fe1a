"""Variational Score Distillation (Wang et al. 2023, eq. 9).

    g = w(t) (ε̂(x_t, t, y_tgt) − ε_φ(x_t, t, y_tgt)),   φ a LoRA of the prior that learns the current renderings

Why it works: ε_φ is the score of what the scene already shows, so the difference is what the prior still misses; SDS
is the case in which the scene's own distribution is taken for a point, and ε_φ for the noise. The trap: the guidance is
the prior's alone; φ is asked without.
"""

from dataclasses import dataclass

import torch

from pds_nerfstudio.objectives.base import (
    EDITED,
    Edit,
    Prior,
    ScoreDistillation,
    Weighting,
    score_weight,
)
from pds_nerfstudio.objectives.schedule import Latents, broadcast
from pds_nerfstudio.ranges import Guidance


@dataclass(frozen=True)
class VSD(ScoreDistillation):
    """Variational Score Distillation. It holds on to nothing of the source but the scene it starts from."""

    guidance_scale: Guidance = 7.5
    """Classifier-free guidance of the prior (Wang et al. 2023, section 5)."""
    weighting: Weighting = "variance"
    """w(t): "variance" is 1 − ᾱ_t, "unit" is 1, "reconstruction" is √(1/ᾱ_t − 1)."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """φ."""
        return (EDITED,)

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """w(t) (ε̂_tgt − ε_φ)."""
        x_t = prior.schedule.add_noise(edit.x0_tgt, edit.t, edit.eps)
        eps_tgt, eps_phi = prior.predict_noise(
            [
                edit.query(x_t, edit.tgt_prompt, self.guidance_scale),
                edit.query(x_t, edit.tgt_prompt, adapter=EDITED, control=edit.control_tgt),
            ]
        )
        return broadcast(score_weight(prior.schedule, edit.t, self.weighting), eps_tgt) * (eps_tgt - eps_phi)
