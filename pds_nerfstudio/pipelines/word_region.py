"""What words name in a view: found by the prior, and cut out along the view's colours.

    view ─ prior ─► map ─ colours ─► mask          all views' masks ─► hull (scenes.hull)

    "difference"   D = E_{t, ε} |ε̂(x_t, t, y) − ε̂(x_t, t, y without the words)|      objectives.relevance
    "attention"    A = the words' cross-attention                                     priors.attention
    "both"         D + max(ρ, 0) A, each scaled to [0, 1], with ρ their correlation over the view

Why both: a difference is largest at an object's edges, attention in its middle. The trap: a small model may read a word
everywhere but at the object; ρ is negative there, and only the difference counts.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.pipelines.prompt_difference import prompt_difference, require_finite
from pds_nerfstudio.pipelines.settings import FoundBy
from pds_nerfstudio.pipelines.shown import ShownViews
from pds_nerfstudio.pipelines.source_views import SourceView
from pds_nerfstudio.prompts import Sought
from pds_nerfstudio.scenes.cutout import cut_out

Map = Float[Tensor, "height width"]
MIDDLE = (0.3, 0.7)
"""Timesteps at which predictions are compared, as fractions of T."""


@dataclass(frozen=True)
class WordSearch:
    """A search for words in views."""

    prior: Any
    shown: ShownViews
    """From where the prior is told that views are seen."""
    asked: Sought
    by: FoundBy
    seed: int = 0
    """Of timesteps and noise."""

    def mask(self, source: SourceView) -> Map:
        """1 where the view shows what the words name, 0 elsewhere, at the view's size."""
        return cut_out(source.image, self.map(source))

    @torch.no_grad()
    def map(self, source: SourceView) -> Map:
        """How much each place shows it, from 0 up, at the latent's size.

        Raises:
            UserError: the prior's answer is not finite, or it has no cross-attention.
        """
        maps = []
        if self.by != "attention":
            prompts = self.asked.without, self.asked.prompt
            maps.append(prompt_difference(self.prior, self.shown, source, prompts, MIDDLE, self.seed))
        if self.by != "difference":
            from pds_nerfstudio.priors.attention import attention_map

            cameras = self.shown.seen_from([source.index])
            maps.append(attention_map(self.prior, source.latent, self.asked, self.seed, cameras)[0])
            require_finite(maps[-1], self.shown.names[source.index])
        return together(*maps) if len(maps) == 2 else maps[0]


def together(difference: Map, attention: Map) -> Map:
    """Both maps in one; attention counts as far as it agrees."""
    first, second = (
        (found - found.min()) / (found.max() - found.min()).clamp(min=1e-12) for found in (difference, attention)
    )
    agreement = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    return first + agreement.nan_to_num(0).clamp(min=0) * second
