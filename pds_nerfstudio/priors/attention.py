"""Where a prior looks for words of a prompt: its cross-attention (Hertz et al. 2022; Tang et al. 2023, DAAM).

    A_w = mean over t, layers, heads and tokens k of w of softmax(Q_x K_yᵀ / √d)[:, k]       Q of x_t, K of the prompt y

Why it works: a place of the picture takes from the prompt what it has to show, so the tokens of "ball" are read where
the ball is. Layers of middle resolution know most: finer ones see texture, coarser ones too little of the place.

The trap: probabilities sum to 1 over tokens, of which the first takes most, so only differences over the picture mean
anything. A small model may read a word everywhere but at the object.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives import Latents, Query
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.prompts import NO_UNET, Sought

LEVELS = (0.2, 0.35, 0.5, 0.65)
"""Noise levels that are looked at, as fractions of T."""
FINEST, COARSEST = 2, 4
"""Layers that count have between a quarter and half of the latent's rows."""
CROSS = "attn2.processor"
"""How the names of cross-attention's processors end in a U-Net."""


@torch.no_grad()
def attention_map(
    prior: Any, x0: Latents, asked: Sought, seed: int = 0, cameras: Viewpoints | None = None
) -> Float[Tensor, "batch height width"]:
    """A_w of every sample, in [0, 1], at the latents' size.

    Args:
        seed: of the noise at each of `LEVELS`.

    Raises:
        UserError: the prior has no U-Net, or its tokenizer cuts the words off.
    """
    require_unet(prior)
    tokens = token_places(prior, asked)
    height, width = x0.shape[-2:]
    generator, maps = torch.Generator().manual_seed(seed), []
    for level in LEVELS:
        t = torch.full((len(x0),), round(level * prior.schedule.num_steps))
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        with recorded(prior, tokens, (height, width)) as layers:
            prior.predict_noise([Query(prior.schedule.add_noise(x0, t, eps), t, asked.prompt, 1.0, cameras=cameras)])
        maps.append(torch.stack(_useful(layers, height)).mean(0))
    return torch.stack(maps).mean(0).to(x0)


def token_places(prior: Any, asked: Sought) -> list[int]:
    """Which tokens of the prompt are the words.

    Raises:
        UserError: the text encoder does not read them all.
    """
    whole, part = (_ids(prior, text) for text in (asked.prompt, asked.words))
    inner = part[1 : part.index(prior.tokenizer.eos_token_id, 1)]  # without the token that begins every prompt
    for first in range(len(whole) - len(inner) + 1):
        if whole[first : first + len(inner)] == inner:
            return list(range(first, first + len(inner)))
    raise UserError(
        f'The prior does not read the words "{asked.words}" in the prompt "{asked.prompt}", which is too long for it: '
        "name them earlier, or leave something out."
    )


def _ids(prior: Any, text: str) -> list[int]:
    if hasattr(prior, "token_ids"):
        return prior.token_ids(text)[0].tolist()
    length = prior.tokenizer.model_max_length
    return prior.tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids


def _useful(layers: dict[int, list[Tensor]], height: int) -> list[Tensor]:
    """Maps of layers of middle resolution; where there are none, of the finest."""
    kept = [rows for rows in layers if height / COARSEST <= rows <= height / FINEST] or [max(layers)]
    return [each for rows in kept for each in layers[rows]]


class Recorder:
    """An attention processor that also keeps how much each place reads of some tokens."""

    def __init__(self, inner: Any, tokens: list[int], size: tuple[int, int], layers: dict[int, list[Tensor]]):
        """`inner` computes the attention; maps go into `layers`, by their number of rows, enlarged to `size`."""
        self.inner, self.tokens, self.size, self.layers = inner, tokens, size, layers

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        groups: Any = None,
    ) -> Tensor:
        """What `inner` gives; cross-attention's groups mean nothing (see `view_attention`)."""
        assert encoder_hidden_states is not None
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        read = attn.get_attention_scores(query, key, None)[:, :, self.tokens].mean(-1)
        read = read.unflatten(0, (len(hidden_states), -1)).mean(1)
        height, width = rows_and_columns(read.shape[-1], *self.size)
        picture = read.float().reshape(len(read), 1, height, width)
        enlarged = F.interpolate(picture, self.size, mode="bilinear", align_corners=False)[:, 0]
        self.layers.setdefault(height, []).append(enlarged)
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def rows_and_columns(places: int, height: int, width: int) -> tuple[int, int]:
    """The size of a layer's picture: the latents', halved some times.

    Raises:
        ValueError: none has so many places.
    """
    while height * width > places and max(height, width) > 1:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != places:
        raise ValueError(f"{places} places of a layer are no picture of the latents' size, halved.")
    return height, width


@contextmanager
def recorded(prior: Any, tokens: list[int], size: tuple[int, int]) -> Iterator[dict[int, list[Tensor]]]:
    """Within this block the U-Net's cross-attention is recorded; gives maps [batch height width] by a layer's rows.

    Raises:
        UserError: the prior has no U-Net.
    """
    require_unet(prior)
    layers: dict[int, list[Tensor]] = {}
    before = dict(prior.denoiser.attn_processors)
    watched = {
        name: Recorder(processor, tokens, size, layers) if name.endswith(CROSS) else processor
        for name, processor in before.items()
    }
    prior.denoiser.set_attn_processor(watched)
    try:
        yield layers
    finally:
        prior.denoiser.set_attn_processor(before)


def require_unet(prior: Any) -> None:
    """Raise UserError for a transformer, in which text and picture attend to each other in one."""
    if prior.denoiser_part != "unet":
        raise UserError(NO_UNET)
