"""Weights in eight bits: half the memory of half precision, for networks that only predict.

    q = round(127 w / m),   m = max |w|        of each output channel;        ŵ = m q / 127  where a layer is used

Why it works: nothing is learned in a frozen network, so its weights need their values and no room for small steps. Each
layer's are made anew when it is used and gone afterwards, so that one layer at a time is whole.

The trap: m / 127 of small weights is a number that float16 hardly has, so that m is stored, and q divided by 127. What
is small or sensitive is left alone: norms, embeddings, and layers of few weights.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

Weights = Literal["full", "8bit"]
FEWEST = 1 << 12
"""Weights of the smallest layer that is stored so."""
LARGEST = 127
"""Of a signed byte, and its negative."""


class _Bytes(nn.Module):
    """A layer's weights, stored as bytes and the largest of each output channel."""

    def forward(self, values: Tensor, largest: Tensor) -> Tensor:
        return values.to(largest.dtype) / LARGEST * largest

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        largest = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
        shares = weight.float() / largest.float().where(largest > 0, 1.0)
        return (LARGEST * shares).round().to(torch.int8), largest


@torch.no_grad()
def to_eight_bits(network: Any) -> None:
    """Store the weights of a frozen network's linear layers and convolutions in eight bits, in place."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for layer in layers:
        if layer.weight.numel() >= FEWEST:
            register_parametrization(layer, "weight", _Bytes(), unsafe=True)  # whose input is not of its output's kind


def bytes_of(network: nn.Module) -> int:
    """What a network's parameters take."""
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
