"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024): the noise that would have made this image.

    x_t = √ᾱ_t x⁰ + √(1−ᾱ_t) ε_t                 ε_t drawn for each t on its own, not along one trajectory
    z_t = (x_s − μ(x_t, ε̂(x_t, y_src))) / σ_t      what DDPM would have had to draw at t to get from x_t to x_s
    x_s ← μ(x_t, ε̂(x_t, y_tgt)) + σ_t z_t          the same draws under another prompt: the edit

    μ = √ᾱ_s x̃⁰ + √(1−ᾱ_s−σ_t²) ε̂     σ_t² = (1−ᾱ_s)/(1−ᾱ_t) · (1 − ᾱ_t/ᾱ_s)            DDIM with η = 1

Why it works: noises drawn apart make z_t larger than a trajectory's own draws, so that it holds the image's structure
and carries it over. The trap: under y_src the image comes back exactly whatever the network says, so that a perfect
reconstruction proves nothing about the edit.
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


@dataclass(frozen=True)
class DDPMInversion(PartOfTheWay):
    """Raises ValueError for a strength outside [0, 1] or fewer than one step."""

    guidance_scale: Guidance = 15.0
    """ω under the target prompt (section 4 of the paper)."""
    src_guidance_scale: Guidance = 3.5
    """ω under the source prompt."""
    strength: Share = 0.64
    """t of the noisiest step as a fraction of T, in [0, 1]: the paper skips 36 of 100 steps."""
    num_steps: Steps = 100
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
        """The latent of `x0` inverted under one prompt and made again under the other.

        Args:
            eps: independent noise for each step that is run (see `steps_run`); more is ignored.
            cameras: where the samples are seen from, for priors that take cameras.
        """
        schedule = prior.schedule
        steps = ddim_steps(schedule, self.strength, self.steps_run)
        if len(steps) == 1:
            return x0
        noisy = [schedule.add_noise(x0, t.expand(len(x0)), noise) for t, noise in zip(steps[:-1], eps, strict=False)]
        latents = noisy[0]
        for i, (t, s) in enumerate(itertools.pairwise(steps)):
            t_batch = t.expand(len(x0))
            source, target = prior.predict_noise(
                [
                    Query(noisy[i], t_batch.to(x0.device), src_prompt, self.src_guidance_scale, cameras=cameras),
                    Query(latents, t_batch.to(x0.device), tgt_prompt, self.guidance_scale, cameras=cameras),
                ]
            )
            mean_src, mean_tgt = (self._mean(prior, x, t, s, e) for x, e in ((noisy[i], source), (latents, target)))
            following = x0 if s == CLEAN else noisy[i + 1]
            latents = mean_tgt + (following - mean_src)  # σ z, without dividing by σ, which is 0 at the image
        return latents

    @staticmethod
    def _mean(prior: Prior, x_t: Latents, t: Tensor, s: Tensor, eps_hat: Latents) -> Latents:
        """μ of the DDPM step from t to s."""
        schedule, t_batch = prior.schedule, t.expand(len(x_t))
        clean = schedule.predict_x0(x_t, t_batch, eps_hat)
        if s == CLEAN:
            return clean
        alpha_t, alpha_s = schedule.alpha_bar(t_batch), schedule.alpha_bar(s.expand(len(x_t)))
        variance = (1 - alpha_s) / (1 - alpha_t) * (1 - alpha_t / alpha_s)
        towards = (1 - alpha_s - variance).clamp(min=0).sqrt()
        return broadcast(alpha_s.sqrt(), x_t) * clean + broadcast(towards, x_t) * eps_hat
