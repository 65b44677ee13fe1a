"""SDEdit: noise an image part of the way, denoise it under another prompt (Meng et al. 2022).

    x_t = √ᾱ_t x⁰ + √(1−ᾱ_t) ε                                 t = strength · T
    x_s = √ᾱ_s x̃⁰(x_t, ε̂) + √(1−ᾱ_s) ε̂                       DDIM (Song et al. 2021, η = 0), from t down to the image

Why it works: the coarse structure survives the noise, what is finer is drawn anew. The trap: nothing else holds on to
the source, so that what the prompt asks to change and what it does not are lost alike. It edits images and is no
objective: it has no gradient.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from pds_nerfstudio.objectives.base import Prior, Query
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule
from pds_nerfstudio.ranges import Guidance, Share, Steps, check_ranges

CLEAN = -1
"""The step that follows the last noisy one, t = 0: the image, where ᾱ is 1."""


class PartOfTheWay:
    """What editors share that run a share `strength` of `num_steps` steps, both fields of theirs."""

    strength: Share
    num_steps: Steps

    def __post_init__(self) -> None:
        check_ranges(self, "", ValueError)
        check_denoising(self.strength, self.num_steps)

    @property
    def steps_run(self) -> int:
        """How many of the steps are run."""
        return max(round(self.strength * self.num_steps), 1)


@dataclass(frozen=True)
class SDEdit(PartOfTheWay):
    """DDIM from a noisy source. Raises ValueError for a strength outside [0, 1] or fewer than one step."""

    guidance_scale: Guidance = 15.0
    """Classifier-free guidance ω; 15 is what Koo et al. 2024's release refines with."""
    strength: Share = 0.6
    """t as a fraction of T: how much noise, in [0, 1]; 0 returns the source. Koo et al. 2024 (S.3) draw from
    [0, 0.2] to refine a finished edit; to make one takes more."""
    num_steps: Steps = 20
    """DDIM steps from T down to the image, of which the share `strength` is run."""

    @torch.no_grad()
    def edit(self, prior: Prior, x0: Latents, prompt: str, eps: Latents, cameras: Viewpoints | None = None) -> Latents:
        """The latent of `x0` noised by `eps` and denoised under `prompt`, seen from `cameras`."""
        steps = ddim_steps(prior.schedule, self.strength, self.steps_run)
        return noise_and_denoise(prior, x0, eps, steps, prompt, self.guidance_scale, cameras)


def check_denoising(strength: float, num_steps: int) -> None:
    """Raise ValueError for a share of noise outside [0, 1] or fewer than one step."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}: it is the share of noise, give it within [0, 1].")
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}: denoising takes at least 1 step.")


def ddim_steps(schedule: NoiseSchedule, strength: float, count: int) -> Int64[Tensor, " steps"]:
    """`count` steps of equal length from t = strength · T down to CLEAN, both named; CLEAN alone where t is that."""
    last = round(strength * schedule.num_steps) - 1
    if last == CLEAN:
        return torch.tensor([CLEAN])
    return torch.linspace(last, CLEAN, count + 1, dtype=torch.float64).round().long()


@torch.no_grad()
def noise_and_denoise(
    prior: Prior,
    x0: Latents,
    eps: Latents,
    steps: Int64[Tensor, " steps"],
    prompt: str,
    guidance_scale: Guidance,
    cameras: Viewpoints | None = None,
) -> Latents:
    """`x0` taken to the first of `steps` by `eps`, and from there to the last by `denoise`; itself where it is one."""
    if len(steps) == 1:
        return x0
    noisy = prior.schedule.add_noise(x0, steps[:1].expand(len(x0)), eps)
    return denoise(prior, noisy, steps, prompt, guidance_scale, cameras)


@torch.no_grad()
def denoise(
    prior: Prior,
    latents: Latents,
    steps: Int64[Tensor, " steps"],
    prompt: str,
    guidance_scale: Guidance,
    cameras: Viewpoints | None = None,
) -> Latents:
    """DDIM without noise of its own: `latents` at the first of `steps` to what they become at the last."""
    schedule = prior.schedule
    for t, s in itertools.pairwise(steps):
        t_batch, s_batch = t.expand(len(latents)), s.expand(len(latents))
        query = Query(latents, t_batch.to(latents.device), prompt, guidance_scale, cameras=cameras)
        (eps_hat,) = prior.predict_noise([query])
        clean = schedule.predict_x0(latents, t_batch, eps_hat)
        latents = clean if s == CLEAN else schedule.add_noise(clean, s_batch, eps_hat)
    return latents
