"""Delta Velocity Rectified Flow (Beaudouin et al. 2025): DDS on a flow's velocities, with the edit shifted ahead.

    x_σ^tgt = (1−σ) x⁰_tgt + σ ε + η σ (x⁰_tgt − x⁰_src),   x_σ^src = (1−σ) x⁰_src + σ ε
    g = v̂(x_σ^tgt, y_tgt) − v̂(x_σ^src, y_src) + (1−η)(x⁰_tgt − x⁰_src)
      = [ε̂_tgt − ε̂_src − η (x⁰_tgt − x⁰_src)]/(1−σ)          by v = (ε − x_σ)/(1−σ)

η grows from 0 to 1 while t falls from step to step. Why it works: what was edited already is carried along into the
noisy latent, so that the target's velocity is asked where the edit is heading. At η = 0 it is DDS with the weight
1/(1−σ), at η = 1 a step of FlowEdit (Kulikov et al. 2024), whose latents move as x⁰_src's noise does.

The second form needs no flow: every prior answers with ε̂, and σ is what its ᾱ_t stands for. The trap: t has to fall;
with t drawn at random, as other objectives have it, η no longer tells how far the edit has come.
"""

from dataclasses import dataclass, replace

import torch

from pds_nerfstudio.objectives.base import Edit, Prior, ScoreDistillation
from pds_nerfstudio.objectives.schedule import Latents, broadcast
from pds_nerfstudio.ranges import Guidance, Share


@dataclass(frozen=True)
class DVRF(ScoreDistillation):
    """Delta Velocity Rectified Flow."""

    guidance_scale: Guidance = 16.5
    """ω under the target's prompt, for Stable Diffusion 3 (the paper's release)."""
    src_guidance_scale: Guidance = 6.0
    """ω under the source's prompt."""
    shift: Share = 1.0
    """η where t has fallen to 0, in [0, 1]; it is 0 where t is T. 0 throughout is DDS."""
    descend: bool = True
    """Whether t falls evenly through its range in the course of the edit, instead of being drawn from it."""

    def at(self, progress: float) -> "DVRF":
        """The one timestep at `progress`, where t falls."""
        now = super().at(progress)
        assert isinstance(now, DVRF)
        if not self.descend:
            return now
        low, high = self.min_step_percent, self.max_step_percent
        here = high - min(max(progress, 0.0), 1.0) * (high - low)
        return replace(now, min_step_percent=here, max_step_percent=here)

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """The second form."""
        schedule = prior.schedule
        sigma = schedule.sigma(edit.t)
        eta = self.shift * (1 - edit.t.cpu().double() / schedule.num_steps)
        change = edit.x0_tgt - edit.x0_src
        # In x_t's units, which are those of x_σ over `flow_scale`.
        ahead = broadcast(eta * sigma / schedule.flow_scale(edit.t), change) * change
        x_t_tgt = schedule.add_noise(edit.x0_tgt, edit.t, edit.eps) + ahead
        x_t_src = schedule.add_noise(edit.x0_src, edit.t, edit.eps)
        target, source = prior.predict_noise(
            [
                edit.query(x_t_tgt, edit.tgt_prompt, self.guidance_scale),
                edit.query(x_t_src, edit.src_prompt, self.src_guidance_scale),
            ]
        )
        return broadcast(1 / (1 - sigma), change) * (target - source - broadcast(eta, change) * change)
