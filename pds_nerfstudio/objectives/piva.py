"""Piva: preserving identity with variational score distillation (Le et al. 2024, eq. 9).

    g = w(t) [ ε̂(x_t, y_tgt) − ε̂(x̂_t, y_src) + λ (ε_ψ(x_t, y_src) − ε_φ(x_t, y_tgt)) ]        w = 1 − ᾱ_t

x_t is the noisy rendering; x̂_t the noisy source, or x_t once more ("shared": the authors' default, which needs no
source rendering). ψ is a LoRA of the prior that learns the source's renderings, φ one that learns the edited ones;
both are asked without guidance, and under a depth-conditioned ControlNet where there is one: ψ with the source's depth,
φ with the rendering's.

Why it works: the first difference is DDS's. The second is the gradient of the divergence between the distribution of
edited and of source renderings: it vanishes where the two adapters agree and pulls back where they do not. The trap:
its sign is that of a score difference with the *source* first; the other way round it drives the scene away.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from pds_nerfstudio.objectives.base import (
    EDITED,
    SOURCE,
    Edit,
    Prior,
    ScoreDistillation,
    Weighting,
    score_weight,
)
from pds_nerfstudio.objectives.schedule import Latents, broadcast
from pds_nerfstudio.ranges import Guidance, Share, Weight


@dataclass(frozen=True)
class Piva(ScoreDistillation):
    """DDS with a variational pull towards the source. Raises ValueError for a negative λ."""

    guidance_scale: Guidance = 7.5
    """Classifier-free guidance of the prior (Le et al. 2024, section 5.1, for images; none is given for scenes)."""
    min_step_percent: Share = 0.0
    """Start of the range from which timesteps are drawn, as a fraction in [0, 1]; t ~ U[0, T] (Le et al. 2024,
    Alg. 1)."""
    max_step_percent: Share = 1.0
    """End of that range, exclusive, as a fraction in [0, 1] of the steps."""
    regularisation: Weight = 0.2
    """λ, the weight of the pull towards the source: 0.2 for real scenes, 0.4 for objects (Le et al. 2024, A.1) and
    images (section 5.1). Less loses the identity, more weakens the edit."""
    noisy_source: Literal["shared", "separate"] = "shared"
    """The noisy latent at which the prior predicts under the source prompt: that of the edited rendering (shared), or
    that of the source (separate)."""
    weighting: Weighting = "variance"
    """w(t): "variance" is 1 − ᾱ_t, "unit" is 1, "reconstruction" is √(1/ᾱ_t − 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()

    @property
    def adapters(self) -> tuple[str, ...]:
        """ψ and φ; none where λ is 0."""
        return (SOURCE, EDITED) if self.regularisation else ()

    @torch.no_grad()
    def gradient(self, prior: Prior, edit: Edit) -> Latents:
        """w(t) [ε̂_tgt − ε̂_src + λ (ε_ψ − ε_φ)]."""
        x_t = prior.schedule.add_noise(edit.x0_tgt, edit.t, edit.eps)
        if self.noisy_source == "shared":
            # ε̂_tgt − ε̂_src = ω(ε_tgt − ε_src): on one noisy latent the unconditional predictions cancel, unasked.
            x_t_source, asked, factor = x_t, 1.0, self.guidance_scale
        else:
            x_t_source = prior.schedule.add_noise(edit.x0_src, edit.t, edit.eps)
            asked, factor = self.guidance_scale, 1.0
        queries = [edit.query(x_t, edit.tgt_prompt, asked), edit.query(x_t_source, edit.src_prompt, asked)]
        if self.regularisation:
            queries += [
                edit.query(x_t, edit.src_prompt, adapter=SOURCE, control=edit.control_src),
                edit.query(x_t, edit.tgt_prompt, adapter=EDITED, control=edit.control_tgt),
            ]
        eps_tgt, eps_src, *learned = prior.predict_noise(queries)
        difference = factor * (eps_tgt - eps_src)
        if learned:
            eps_psi, eps_phi = learned
            difference = difference + self.regularisation * (eps_psi - eps_phi)
        return broadcast(score_weight(prior.schedule, edit.t, self.weighting), eps_tgt) * difference
