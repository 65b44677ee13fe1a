"""Self-attention across the views of a group: what makes a text-to-image U-Net predict several views jointly.

    [(b f) l c] → [b (f l) c] → attention → [(b f) l c]       f views of l tokens

(MVDream, Shi et al. 2023, section 3.1.) No weights are added: the same query, key and value matrices look at more
tokens. Cross-attention and everything else stay per view.

The trap: the U-Net cannot see which rows of its batch belong together. `groups` says so with every call, as runs of
consecutive rows: ((2, 4), (3, 1)) is two groups of four views and then three views of their own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

Groups = Sequence[tuple[int, int]]
"""Runs of (number of groups, views in each), over the rows of a batch in order."""


class ViewAttention:
    """An attention processor that lets self-attention run over all views of a group.

    Give it to every attention of the U-Net, and `cross_attention_kwargs={"groups": ...}` to every call. Without groups
    it is diffusers' own.
    """

    def __init__(self) -> None:
        self.inner = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        groups: Groups | None = None,
    ) -> Tensor:
        """[rows tokens channels] to the same; raises ValueError where the groups do not add up to the rows."""
        if encoder_hidden_states is not None or groups is None or all(views == 1 for _, views in groups):
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        rows = [count * views for count, views in groups]
        if sum(rows) != len(hidden_states):
            raise ValueError(f"The groups {tuple(groups)} have {sum(rows)} rows and the batch {len(hidden_states)}.")
        parts = []
        for part, (count, _) in zip(hidden_states.split(rows), groups, strict=True):
            joint = part.reshape(count, -1, part.shape[-1])
            parts.append(self.inner(attn, joint, None, attention_mask, temb).reshape(part.shape))
        return torch.cat(parts)
