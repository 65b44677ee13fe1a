"""Stable Score Distillation (ICCV 2025): DDS taken apart, so that each of its parts has a weight of its own.

    g = c_x (ε(x_t^tgt, y_src) − ε(x_t^src, ∅))         across trajectories: away from what the source's prompt draws
      + ½ω (ε(x_t^tgt, y_tgt) − ε(x_t^tgt, y_src))      across prompts, on the edited trajectory alone
      + c_e (ε(x_t^tgt, y_tgt) − ε(x_t^tgt, ∅))         towards the target's prompt
      + 0.075 e^(t/T) (x_t^tgt − x_t^src)               back to the source (Kim et al. 2024's weight)

with c_x = 1, ω = 7.5, c_e = 5.5, the same ε in both and every ε(·) without guidance: four rows of the network, as PDS.

Why it works: the second term compares two prompts on one and the same picture, where DDS compares two pictures as well.
The trap: the first and the third do not vanish where nothing is to be changed (x⁰_tgt = x⁰_src, y_tgt = y_src), as PDS
and DDS do: an edit goes on pulling towards its prompt, and only the last term stops it. From the paper alone.
"""

from dataclasses import dataclass

import torch

from pds_nerfstudio.objectives.base import Edit, Prior, ScoreDistillation
from pds_nerfstudio.objectives.schedule import Latents, broadcast
from pds_nerfstudio.ranges import Guidance, Weight


@dataclass(frozen=True)
class SSD(ScoreDistillation):
    """Stable Score Distillation."""

    guidance_scale: Guidance = 7.5
    """ω of the difference between the prompts, half of which is taken; predictions themselves are asked for without."""
    cross_trajectory: Weight = 1.0
    """Weight c_x of the difference between the edited and the source's trajectory."""
    enhancement: Weight = 5.5
    """Weight c_e of the pull towards the target's prompt, which goes on where nothing is left to be changed."""
    hold: Weight = 0.075
    """Weight of the pull back to the source's noisy latent, times e^(t/T)."""

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """The four terms."""
        schedule = prior.schedule
        x_t_tgt = schedule.add_noise(edit.x0_tgt, edit.t, edit.eps)
        x_t_src = schedule.add_noise(edit.x0_src, edit.t, edit.eps)
        to_target, to_source, to_any, source_to_any = prior.predict_noise(
            [
                edit.query(x_t_tgt, edit.tgt_prompt, 1.0),
                edit.query(x_t_tgt, edit.src_prompt, 1.0),
                edit.query(x_t_tgt, edit.tgt_prompt, 0.0),
                edit.query(x_t_src, edit.src_prompt, 0.0),
            ]
        )
        weight = self.hold * (edit.t.cpu().double() / schedule.num_steps).exp()
        return (
            self.cross_trajectory * (to_source - source_to_any)
            + 0.5 * self.guidance_scale * (to_target - to_source)
            + self.enhancement * (to_target - to_any)
            + broadcast(weight, x_t_tgt) * (x_t_tgt - x_t_src)
        )
