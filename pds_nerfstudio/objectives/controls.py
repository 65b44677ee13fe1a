"""Two controls of any objective (LUSD; Chinchuthakun et al. 2025): what a step draws, and how large its gradient is.

    redraw      draw (t, ε) again while  std(ε(x_t, y_tgt) − ε(x_t, ∅)) < τ,   τ ← 0.99 τ with every retry
    normalise   g ← size · g/std(g),    size from 0.15 to 0.01 in the course of the edit

Each standard deviation is that of one sample, over channels and places; views that a prior predicts together have one.

Why they work: how strongly a prior answers differs by an order of magnitude between timesteps, noises, prompts and
pictures. A weak answer points nowhere in particular and may undo what strong ones have done; and an optimiser of one
learning rate takes hardly a step here and too large a one there.

The traps: a gradient that is divided by its deviation does not become smaller where an edit has arrived, so only the
falling size brings it to rest. And Adam divides by the size once more: beside it, this evens out what differs from step
to step and leaves the rest to the learning rate, unless Adam's ε is as large as the gradients.

`take_step` asks the prior once where no sample is drawn again. Where some are, it asks about those alone until all are
strong enough, and then once more for the gradient. The host waits for the deviations once, and once with every retry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from pds_nerfstudio.objectives.base import Edit, Prior, Query, ScoreDistillation, guided
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.schedule import Latents, NoiseSchedule, Timesteps

CONTROLS = ("redraw_below", "most_redraws", "normalise", "normalise_end")
"""Fields of every objective that are read here."""
DECAY = 0.99
"""What τ is multiplied with at every retry."""
LEAST = 1e-12
"""Deviation below which a gradient counts as zero, and stays it."""

Draw = tuple[Timesteps, Timesteps, Latents, Latents]
"""t, s, ε_t and ε_s of some samples."""
P = TypeVar("P", bound=Prior)


@dataclass(frozen=True, eq=False)
class Step(Generic[P]):
    """What a step has drawn, and what came of it."""

    edit: Edit
    """With the draws that were taken."""
    prior: P
    """What answered."""
    gradient: Latents
    """See `Objective.gradient`; normalised where that is asked for."""
    redraws: int = 0
    """How often samples were drawn again."""


def take_step(
    objective: ScoreDistillation, edit: Edit, ask: Callable[[Edit], P], draw: Callable[[Sequence[int]], Draw]
) -> Step[P]:
    """The gradient of an objective under its controls.

    Args:
        ask: the prior for an edit, whose adapters learn by its draws.
        draw: draws t, s, ε_t and ε_s anew for the samples of these places in the batch.
    """
    prior, redraws = ask(edit), 0
    if objective.redraw_below == 0:
        gradient = objective.gradient(prior, edit)
    else:
        witness = _Witness(prior, edit.tgt_prompt)
        gradient = objective.gradient(witness, edit)
        chosen, redraws = _redrawn(objective, prior, edit, witness.deviations, draw)
        if chosen is not edit:
            edit, prior = chosen, ask(chosen)
            gradient = objective.gradient(prior, edit)
    return Step(edit, prior, normalised(gradient, objective.normalise, _together(edit.cameras)), redraws)


def normalised(gradient: Latents, size: float, together: int = 1) -> Latents:
    """size · g/std(g) of every sample, one deviation for each group of `together`; g itself where `size` is 0.

    A gradient of zero stays zero.
    """
    if size == 0:
        return gradient
    return gradient * (size / deviations(gradient, together).clamp(min=LEAST)).to(gradient.dtype)


def deviations(latents: Latents, together: int = 1) -> Tensor:
    """Standard deviation over all values of each group of `together` samples, once per sample: [B 1 1 1], float32 at
    least."""
    wide = latents.to(torch.promote_types(latents.dtype, torch.float32))
    groups = wide.reshape(len(latents) // together, -1).std(dim=1)
    return groups.repeat_interleave(together)[:, None, None, None]


class _Witness:
    """A prior that also finds out how strongly it answers, by the parts of which guidance is made anyway."""

    def __init__(self, prior: Prior, prompt: str):
        """`prompt`: of the query whose answer is looked at, the first without an adapter."""
        self._prior, self._prompt = prior, prompt
        self.deviations: Tensor | None = None

    @property
    def schedule(self) -> NoiseSchedule:
        return self._prior.schedule

    def predict_noise(self, queries: Sequence[Query]) -> list[Latents]:
        """As the prior's own; the first query under the prompt is asked for in its two parts and guided here."""
        place = next(i for i, q in enumerate(queries) if q.prompt == self._prompt and q.adapter is None)
        asked = queries[place]
        parts = [replace(asked, guidance_scale=omega) for omega in (0.0, 1.0)]
        others = [*queries[:place], *queries[place + 1 :]]
        without, under, *answers = self._prior.predict_noise([*parts, *others])
        self.deviations = deviations(under - without, _together(asked.cameras))
        answers.insert(place, guided(without, under, asked.guidance_scale))
        return answers


def _redrawn(
    objective: ScoreDistillation,
    prior: Prior,
    edit: Edit,
    found: Tensor | None,
    draw: Callable[[Sequence[int]], Draw],
) -> tuple[Edit, int]:
    """The edit with other draws where answers are weak, and how many retries that took."""
    least, rows = objective.redraw_below, list(range(len(edit.t)))
    for retry in range(objective.most_redraws + 1):
        assert found is not None  # every objective asks under the target's prompt
        strong = (found.flatten() >= least).tolist()
        rows = [row for row, enough in zip(rows, strong, strict=True) if not enough]
        if not rows or retry == objective.most_redraws:
            return edit, retry
        edit, least = _with_draws(edit, rows, draw(rows)), DECAY * least
        part = _rows(edit, rows)
        x_t = prior.schedule.add_noise(part.x0_tgt, part.t, part.eps)
        queries = [part.query(x_t, part.tgt_prompt, omega) for omega in (0.0, 1.0)]
        without, under = prior.predict_noise(queries)
        found = deviations(under - without, _together(part.cameras))
    raise AssertionError("the last retry returns")


def _together(cameras: Viewpoints | None) -> int:
    return 1 if cameras is None else cameras.together


def _with_draws(edit: Edit, rows: Sequence[int], drawn: Draw) -> Edit:
    """The edit with other draws in some places of its batch."""
    names = ("t", "s", "eps", "eps_s")
    changed = {}
    for name, new in zip(names, drawn, strict=True):
        values = list(getattr(edit, name))
        for row, value in zip(rows, new, strict=True):
            values[row] = value
        changed[name] = torch.stack(values)
    return replace(edit, **changed)


def _rows(edit: Edit, rows: Sequence[int]) -> Edit:
    """Some of an edit's samples."""
    picked = {}
    for name in (field.name for field in fields(edit)):
        value = getattr(edit, name)
        if isinstance(value, Tensor):
            picked[name] = torch.stack([value[row] for row in rows])
        elif isinstance(value, Viewpoints):
            picked[name] = Viewpoints(torch.stack([value.matrices[row] for row in rows]), value.together)
    return replace(edit, **picked)
