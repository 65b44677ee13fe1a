"""tiny-cuda-nn's Python interface and parameter layout in plain torch: every module has one flat vector `params`.

After its include/tiny-cuda-nn/encodings/grid.h: p = s x + 1/2 with s = b^l N_min − 1; levels with room for all of their
⌈s⌉ + 1 vertices along each axis are stored in order, others are hashed. A network's weights come before its grid's.

As there, what a module keeps for its backward pass lies in a context of its own, which no hook of autograd sees.
"""

import math
import weakref
from typing import ClassVar

import torch
from torch import Tensor

SEED = 1337
"""Every module's seed, unless told otherwise: two modules of the same shape begin alike."""


class Context:
    """Everything between a module's inputs and output."""

    alive: ClassVar["weakref.WeakSet[Context]"] = weakref.WeakSet()

    def __init__(self, inputs: tuple[Tensor, Tensor], output: Tensor):
        self.inputs, self.output = inputs, output
        Context.alive.add(self)


class Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, params, module):
        inputs = x.detach().requires_grad_(x.requires_grad), params.detach().requires_grad_()
        with torch.enable_grad():
            output = module.through(*inputs)
        ctx.native = Context(inputs, output)
        return output.detach()

    @staticmethod
    def backward(ctx, gradient):
        inputs, output = ctx.native.inputs, ctx.native.output
        if not output.requires_grad:
            return None, torch.zeros_like(inputs[1]), None
        wanted = [value for value in inputs if value.requires_grad]
        found = torch.autograd.grad(
            output, wanted, gradient, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return (*(None,) * (2 - len(found)), *found, None)


class Native:
    """What stands behind a module: it draws parameters from a seed."""

    def __init__(self, draw):
        self.draw = draw

    def initial_params(self, seed: int) -> Tensor:
        return self.draw(torch.Generator().manual_seed(seed))


class Module(torch.nn.Module):
    """Parts one after the other, and their parameters in the same vector, the last part's first."""

    def __init__(self, *parts, seed: int = SEED):
        super().__init__()
        self.parts = parts
        self.n_output_dims = parts[-1].out
        self.native_tcnn_module = Native(lambda generator: torch.cat([p.draw(generator) for p in reversed(parts)]))
        self.params = torch.nn.Parameter(self.native_tcnn_module.initial_params(seed))

    def forward(self, x: Tensor) -> Tensor:
        return Forward.apply(x.float(), self.params, self)

    def through(self, x: Tensor, rest: Tensor) -> Tensor:
        for part in self.parts:
            rest, own = rest[: len(rest) - part.count], rest[len(rest) - part.count :]
            x = part(x, own)
        return x


class Encoding(Module):
    def __init__(self, n_input_dims: int, encoding_config: dict, seed: int = SEED, dtype=None):
        super().__init__(_encoder(n_input_dims, encoding_config), seed=seed)


class Network(Module):
    def __init__(self, n_input_dims: int, n_output_dims: int, network_config: dict, seed: int = SEED):
        super().__init__(Layers(n_input_dims, n_output_dims, network_config), seed=seed)


class NetworkWithInputEncoding(Module):
    def __init__(self, n_input_dims, n_output_dims, encoding_config, network_config, seed: int = SEED):
        grid = _encoder(n_input_dims, encoding_config)
        super().__init__(grid, Layers(grid.out, n_output_dims, network_config), seed=seed)


class Layers:
    def __init__(self, inputs: int, out: int, config: dict):
        self.sizes = [inputs, *[config["n_neurons"]] * config["n_hidden_layers"], out]
        self.out, self.squash = out, config.get("output_activation") == "Sigmoid"
        self.shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        self.count = sum(a * b for a, b in self.shapes)

    def draw(self, generator):
        return torch.randn(self.count, generator=generator) * 0.3

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        weights = params.split([a * b for a, b in self.shapes])
        for i, (weight, shape) in enumerate(zip(weights, self.shapes, strict=True)):
            x = (x.relu() if i else x) @ weight.view(shape).T
        return x.sigmoid() if self.squash else x


class Grid:
    def __init__(self, config: dict):
        self.features = config["n_features_per_level"]
        self.levels = []
        first = 0
        for level in range(config["n_levels"]):
            scale = config["base_resolution"] * config["per_level_scale"] ** level - 1
            side = math.ceil(scale) + 1
            size = min(math.ceil(side**3 / 8) * 8, 2 ** config["log2_hashmap_size"])
            self.levels.append((scale, side, first, size))
            first += size
        self.count, self.out = first * self.features, self.features * config["n_levels"]

    def draw(self, generator):
        return torch.randn(self.count, generator=generator)

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        table, found = params.view(-1, self.features), []
        for scale, side, first, size in self.levels:
            place = x * scale + 0.5
            low = place.floor().long()
            value = 0
            for corner in range(8):
                bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
                i, j, k = (low + bits).T
                index = i + side * j + side * side * k if side**3 <= size else i ^ j * 2654435761 ^ k * 805459861
                weight = torch.where(bits.bool(), place - low, 1 - (place - low)).prod(-1, keepdim=True)
                value = value + weight * table[first + index % size]
            found.append(value)
        return torch.cat(found, -1)


class Fixed:
    """An encoding without parameters: spherical harmonics or frequencies, here some function of the input."""

    count = 0

    def __init__(self, inputs: int, config: dict):
        self.out = config["degree"] ** 2 if "degree" in config else inputs * 2 * config["n_frequencies"]

    def draw(self, generator):
        return torch.zeros(0)

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        return (x[:, :1] * torch.arange(1, self.out + 1)).sin()


def _encoder(inputs: int, config: dict):
    return Grid(config) if config["otype"] == "HashGrid" else Fixed(inputs, config)
