"""Weights in eight or four bits: a half or a quarter of half precision's memory, for networks that only predict.

    8bit    q = round(127 w / m),          m = max |w| of each output channel;   ŵ = m q / 127  where a layer is used
    4bit    q = argmin |w / m − level_q|,  m = max |w| of each 64 weights;       ŵ = m level_q

Why it works: nothing is learned in a frozen network, so its weights need their values and no room for small steps. Each
layer's are made anew when it is used and gone afterwards, so that one layer at a time is whole. The sixteen levels are
NormalFloat's (Dettmers et al. 2023, "QLoRA", appendix E): as likely as each other where weights are normal.

The trap: m / 127 of small weights is a number that float16 hardly has, so that m is stored, and q divided by 127. What
is small or sensitive is left alone: norms, embeddings, and layers of few weights.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

Bits = Literal["8bit", "4bit"]
Weights = Literal["full", "8bit", "4bit"]
FEWEST = 1 << 12
"""Weights of the smallest layer that is stored so."""
LARGEST = 127
"""Of a signed byte, and its negative."""
BLOCK = 64
"""Weights that share a scale in four bits."""
LEVELS = (
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)


class _Bytes(nn.Module):
    """A layer's weights, stored as bytes and the largest of each output channel."""

    def forward(self, values: Tensor, largest: Tensor) -> Tensor:
        return values.to(largest.dtype) / LARGEST * largest

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        largest = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
        return (LARGEST * _shares(weight, largest)).round().to(torch.int8), largest


class _HalfBytes(nn.Module):
    """A layer's weights, two in a byte, and the largest of each block of them in their order."""

    both: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape = weight.shape
        # The two levels of every byte, where the weights are: nothing is brought to a GPU when a layer is used.
        both = torch.cartesian_prod(torch.tensor(LEVELS), torch.tensor(LEVELS))
        self.register_buffer("both", both.to(weight), persistent=False)

    def forward(self, pairs: Tensor, largest: Tensor) -> Tensor:
        return (self.both[pairs.int()].view(-1, BLOCK) * largest).view(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        blocks = weight.reshape(-1, BLOCK)
        largest = blocks.abs().amax(dim=1, keepdim=True)
        levels = torch.tensor(LEVELS, device=weight.device)
        nearest = torch.bucketize(_shares(blocks, largest), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        first, second = nearest.view(-1, 2).unbind(1)
        return first << 4 | second, largest


def _shares(weights: Tensor, largest: Tensor) -> Tensor:
    return weights.float() / largest.float().where(largest > 0, 1.0)


@torch.no_grad()
def to_few_bits(network: Any, bits: Bits) -> None:
    """Store the weights of a frozen network's linear layers and convolutions in that many bits, in place.

    In four bits, layers whose weights are no whole number of blocks stay as they are.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for layer in layers:
        count = layer.weight.numel()
        if count >= FEWEST and (bits == "8bit" or count % BLOCK == 0):
            stored = _Bytes() if bits == "8bit" else _HalfBytes(layer.weight)
            register_parametrization(layer, "weight", stored, unsafe=True)  # whose input is not of its output's kind


def bytes_of(network: nn.Module) -> int:
    """What a network's parameters take."""
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
