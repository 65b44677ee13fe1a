"""The same edit in two dimensions: the scene is a bare latent, and seconds show what a prompt and a setting do.

    x⁰_src = E(photograph),  x⁰_tgt = θ,     θ ← θ − rate · g,  g = objective.gradient(prior, Edit(x⁰_tgt, x⁰_src, …))

Plain gradient descent with a cosine schedule, as Le et al. 2024 (section 5.1) edit images. Their 1000 steps at a rate
of 0.01 are taken as one length of way: fewer steps are longer, so that the number of steps decides how fine the way is
and not how far it goes. What it cannot show: a scene hears all its views, and gives way differently than a latent.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.base import EDITED, SOURCE, Edit, ScoreDistillation, surrogate_loss
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.controls import Draw, take_step
from pds_nerfstudio.objectives.dvrf import DVRF
from pds_nerfstudio.objectives.schedule import Latents
from pds_nerfstudio.objectives.sdedit import SDEdit
from pds_nerfstudio.priors.adapters import ADAPTER_RATE, WARMUP_RATE
from pds_nerfstudio.priors.latent import LatentPrior
from pds_nerfstudio.priors.learning import LearningPrior

WAY = 1000 * 0.01
"""Steps times initial rate (Le et al. 2024, section 5.1: SGD at a rate of 0.01, 1000 steps, cosine)."""
FLOW_WAY = 1.5
"""The same where t falls, as DVRF's does. Its gradients are velocities, which are meant to be followed once from noise
to image: over a cosine schedule, 1.5 is a length of 0.75 in σ. On `WAY` each noise level is followed some seven times
as far as it reaches, first the large ones, which repaint the floor (docs/toybox.md)."""
NORMALISED_WAY = 300 * 2000 / 64**2
"""The same of normalised gradients, whose size falls in place of the rate (release of Chinchuthakun et al. 2025)."""


def edit_latents(
    prior: LatentPrior,
    editor: ScoreDistillation | SDEdit,
    x0_src: Latents,
    src_prompt: str,
    tgt_prompt: str,
    steps: int,
    seed: int = 0,
    rate: float | None = None,
    adapter_rank: int = 16,
    adapter_warmup: int = 0,
    adapter_rate: float | None = None,
    after_step: Callable[[Latents], None] = lambda _: None,
    cameras: Viewpoints | None = None,
) -> Latents:
    """Edit the latents of photographs, each on its own, without a graph.

    Args:
        x0_src: latents of the photographs.
        steps: steps of gradient descent; SDEdit has its own.
        seed: of timesteps, noise and adapters: edits that differ in one setting share their draws.
        rate: the initial learning rate; by default `WAY`, `FLOW_WAY` or `NORMALISED_WAY` over the number of steps.
        adapter_rank, adapter_rate: of adapters, where the objective has any; the photographs share them.
        adapter_warmup: steps in which ψ learns the photographs before they are edited.
        after_step: called after each step with the latents as they are.
        cameras: where the photographs were taken, for a prior that takes cameras.

    Raises:
        UserError: the latents are no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise_like(latents: Latents) -> Latents:
        return torch.randn(latents.shape, generator=generator).to(latents)

    if isinstance(editor, SDEdit):
        edited = editor.edit(prior, x0_src, tgt_prompt, noise_like(x0_src), cameras)
        after_step(edited)
        return edited

    def draw(objective: ScoreDistillation, rows: Sequence[int]) -> Draw:
        t, s = objective.sample_timesteps(prior.schedule, len(rows), generator)
        shape = x0_src[: len(rows)]
        return t.to(x0_src.device), s.to(x0_src.device), noise_like(shape), noise_like(shape)

    def drawn(objective: ScoreDistillation, x0_tgt: Latents) -> Edit:
        noise = draw(objective, range(len(x0_src)))
        return Edit(x0_tgt, x0_src, src_prompt, tgt_prompt, *noise, cameras=cameras)

    x0_tgt = x0_src.clone().requires_grad_(True)
    learners: list[Tensor] = []
    if editor.adapters:
        learners = _fresh_adapters(prior, editor.adapters, adapter_rank, seed)
    if SOURCE in editor.adapters and adapter_warmup:
        assert prior.adapters is not None
        beginning = torch.optim.Adam(prior.adapters.parameters(SOURCE), lr=WARMUP_RATE)
        for _ in range(adapter_warmup):
            LearningPrior.of_step(prior, (SOURCE,), drawn(editor.at(0.0), x0_src)).teach(beginning)
    falls = isinstance(editor, DVRF) and editor.descend
    way = NORMALISED_WAY if editor.normalise else FLOW_WAY if falls else WAY
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD([x0_tgt], lr=way / steps if rate is None else rate)]
    # Normalised gradients become smaller by themselves.
    schedule = None if editor.normalise else torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[0], steps)
    if learners:
        optimizers.append(torch.optim.Adam(learners, lr=adapter_rate or ADAPTER_RATE))
    for step in range(steps):
        objective = editor.at(step / steps)
        edit = drawn(objective, x0_tgt.detach())
        ask = partial(LearningPrior.of_step, prior, editor.adapters)
        taken = take_step(objective, edit, ask, partial(draw, objective))
        # Each photograph is an edit of its own: the sum over them, not the mean.
        loss = len(x0_src) * surrogate_loss(x0_tgt, taken.gradient)
        torch.stack([loss, *taken.prior.losses().values()]).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if schedule is not None:
            schedule.step()
        after_step(x0_tgt.detach())
    if not bool(x0_tgt.isfinite().all()):
        raise UserError(
            f"The edited image is not finite after {steps} steps of {type(editor).__name__}: give a lower learning "
            "rate or guidance scale."
        )
    return x0_tgt.detach()


def _fresh_adapters(prior: LatentPrior, names: tuple[str, ...], rank: int, seed: int) -> list[Tensor]:
    """Untrained adapters, whatever an earlier edit taught them; the parameters of those that `names` lists."""
    if prior.adapters is None:
        prior.add_adapters((SOURCE, EDITED), rank, seed)
    adapters = prior.adapters
    assert adapters is not None
    adapters.reset(seed)
    return [parameter for name in names for parameter in adapters.parameters(name)]
