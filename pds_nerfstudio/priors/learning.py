"""Adapters learn while they answer: one forward pass serves an objective's queries and the step's lesson.

A lesson is a sample of the ordinary denoising loss ‖ε_·(x_t, t, y) − ε‖². Where an objective asks the very same
question (φ of VSD and of Piva, at the noisy rendering) its answer is the lesson's as well; elsewhere (ψ of Piva, which
learns at the noisy source) the lesson rides along in the same batch. A step therefore takes one pass for the frozen
prior and one for each adapter: 2 for VSD, 3 for Piva, instead of 3 and 5. Fewer would need several adapters in one
batch, which peft offers for inference alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives import Edit, Latents, NoiseSchedule, Query
from pds_nerfstudio.objectives.base import SOURCE

if TYPE_CHECKING:
    from pds_nerfstudio.priors.latent import LatentPrior


@dataclass(frozen=True, eq=False)
class Lesson:
    """What an adapter learns at a step. Raises ValueError for a query that names no adapter or asks for guidance."""

    query: Query
    """Names the adapter; asked without guidance."""
    eps: Latents
    """ε, what the prediction should be."""

    def __post_init__(self) -> None:
        if self.query.adapter is None:
            raise ValueError("The lesson's query names no adapter: the prior itself is frozen.")
        if self.query.guidance_scale != 1:
            raise ValueError("A lesson is learned without guidance: leave the query's guidance_scale at 1.")

    def answered_by(self, query: Query) -> bool:
        """Whether `query` asks the very same of the same adapter."""
        own = self.query
        return (
            (query.adapter, query.prompt, query.guidance_scale) == (own.adapter, own.prompt, own.guidance_scale)
            and query.control is own.control
            and query.cameras is own.cameras
            and torch.equal(query.t, own.t)
            and torch.equal(query.noisy_latents, own.noisy_latents)
        )


class LearningPrior:
    """A prior for one step of an edit, whose adapters learn a lesson each. Satisfies `objectives.Prior`."""

    def __init__(self, prior: "LatentPrior", lessons: Sequence[Lesson]):
        self._prior = prior
        self._lessons = {lesson.query.adapter: lesson for lesson in lessons}
        self._losses: dict[str | None, Float[Tensor, ""]] = {}

    @classmethod
    def of_step(cls, prior: "LatentPrior", adapters: Sequence[str], edit: Edit) -> "LearningPrior":
        """What adapters learn at a step: ψ the noisy source, φ the noisy rendering, each under its own prompt."""
        lessons = []
        for name in adapters:
            x0, prompt, control = (
                (edit.x0_src, edit.src_prompt, edit.control_src)
                if name == SOURCE
                else (edit.x0_tgt, edit.tgt_prompt, edit.control_tgt)
            )
            x_t = prior.schedule.add_noise(x0, edit.t, edit.eps)
            lessons.append(Lesson(edit.query(x_t, prompt, adapter=name, control=control), edit.eps))
        return cls(prior, lessons)

    @property
    def schedule(self) -> NoiseSchedule:
        """The prior's."""
        return self._prior.schedule

    def predict_noise(self, queries: Sequence[Query]) -> list[Latents]:
        """As the prior's own, without a graph; the losses of the adapters asked are kept for `losses`."""
        learners = dict.fromkeys(query.adapter for query in queries if query.adapter in self._lessons)
        others = [i for i, query in enumerate(queries) if query.adapter not in learners]
        answers = dict(zip(others, self._prior.predict_noise([queries[i] for i in others]), strict=True))
        for adapter in learners:
            asked = [i for i, query in enumerate(queries) if query.adapter == adapter]
            answers |= dict(zip(asked, self._learn(self._lessons[adapter], [queries[i] for i in asked]), strict=True))
        return [answers[i] for i in range(len(queries))]

    def teach(self, optimizer: torch.optim.Optimizer) -> None:
        """One step on the lessons alone."""
        optimizer.zero_grad()
        torch.stack(list(self.losses().values())).sum().backward()
        optimizer.step()

    def losses(self) -> dict[str, Float[Tensor, ""]]:
        """Mean of (ε̂ − ε)² by adapter, with its graph; an adapter that no query named learns its lesson now."""
        for adapter, lesson in self._lessons.items():
            if adapter not in self._losses:
                self._learn(lesson, [])
        return {str(adapter): loss for adapter, loss in self._losses.items()}

    @torch.enable_grad()  # objectives ask outside of any graph
    def _learn(self, lesson: Lesson, queries: list[Query]) -> list[Latents]:
        same = next((i for i, query in enumerate(queries) if lesson.answered_by(query)), None)
        asked = queries if same is not None else [*queries, lesson.query]
        predictions = self._prior.predict_with_graph(asked)
        learned = predictions[-1 if same is None else same]
        assert self._prior.adapters is not None
        assert lesson.query.adapter is not None
        self._prior.adapters.lift(lesson.query.adapter, learned)
        self._losses[lesson.query.adapter] = (learned.float() - lesson.eps.float()).square().mean()
        return [prediction.detach() for prediction in predictions[: len(queries)]]
