"""Large text encoders read on the GPU and wait in main memory: prompts are read once, steps are taken by the thousand.

Stable Diffusion 3's T5 alone is 9.5 GB in half precision, more than the model that draws. Prompts can change while an
edit runs, so that encoders are put aside and not thrown away. Where one does not fit beside what lies on the GPU
already, it reads on the CPU, which takes longer, once.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

ROOM = 1.2
"""Free memory that an encoder needs on the GPU, in units of its weights."""


class Text(NamedTuple):
    """What text encoders make of a prompt; of several, with a first axis for them."""

    features: Float[Tensor, "*batch tokens width"]
    """One vector for each token."""
    pooled: Float[Tensor, "*batch pooled"] | None = None
    """One for the whole prompt, where the denoiser takes one."""
    mask: Integer[Tensor, "*batch tokens"] | None = None
    """1 at the prompt's own tokens and 0 at its padding, where the denoiser has to know."""

    @classmethod
    def stack(cls, texts: Sequence["Text"], dtype: torch.dtype) -> "Text":
        """The prompts of a batch's rows."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        masks = [text.mask for text in texts if text.mask is not None]
        return cls(
            torch.stack([text.features for text in texts]).to(dtype),
            torch.stack(pooled).to(dtype) if pooled else None,
            torch.stack(masks) if masks else None,
        )


@contextmanager
def brought_to(device: torch.device, encoders: Iterable[Any]) -> Iterator[torch.device]:
    """Within this block text encoders lie where they read, which is given; on a GPU for the block's time alone."""
    encoders = list(encoders)
    if device.type != "cuda":
        for encoder in encoders:
            encoder.to(device)
        yield device
        return
    size = sum(p.numel() * p.element_size() for encoder in encoders for p in encoder.parameters())
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused  # what torch keeps for itself it will give
    place = device if ROOM * size < free else torch.device("cpu")
    for encoder in encoders:
        encoder.to(place)
    try:
        yield place
    finally:
        for encoder in encoders:
            encoder.to("cpu")
