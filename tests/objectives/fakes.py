"""A prior that is a deterministic function of its inputs and counts its calls, and edits to feed it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from pds_nerfstudio.objectives import Edit, NoiseSchedule, Query

SCHEDULE = NoiseSchedule.scaled_linear()


@dataclass
class FakePrior:
    """ε̂ depends on x_t, t, prompt and guidance; `calls` keeps what was asked."""

    schedule: NoiseSchedule = SCHEDULE
    calls: list[list[Query]] = field(default_factory=list)

    def predict_noise(self, queries: Sequence[Query]) -> list[Tensor]:
        self.calls.append(list(queries))
        return [self._one(query) for query in queries]

    @staticmethod
    def _one(query: Query) -> Tensor:
        x = query.noisy_latents
        phase = sum(map(ord, query.prompt + (query.adapter or ""))) % 7 + 0.01 * query.t.to(x)[:, None, None, None]
        return torch.sin(1.7 * x + phase) + 0.1 * query.guidance_scale * torch.cos(x - phase)


def random_edit(
    batch: int = 3,
    shape: tuple[int, int, int] = (4, 6, 5),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    stride: int = 2,
    **changes,
) -> Edit:
    """An edit with two prompts and random everything; `changes` replace single fields."""
    generator = torch.Generator().manual_seed(seed)
    x0_tgt, x0_src, eps, eps_s = torch.randn(4, batch, *shape, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.randint(stride, SCHEDULE.num_steps, (batch,), generator=generator)
    edit = Edit(x0_tgt, x0_src, "a red ball", "a blue cube", t, t - stride, eps, eps_s)
    return replace(edit, **changes)


def diffusers_ddim(num_steps: int) -> DDIMScheduler:
    """diffusers' own DDIM over `SCHEDULE`, in its precision, down to the clean image."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = SCHEDULE.alphas_cumprod
    scheduler.set_timesteps(num_steps)
    return scheduler
