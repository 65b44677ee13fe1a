"""LoRA adapters on one frozen denoiser, through peft, let a prior learn a scene (Wang et al. 2023; Le et al. 2024).

The denoiser, a U-Net or a transformer, exists once. An adapter adds low-rank matrices to its attention projections, of
which the second starts at zero: fresh adapters predict what the prior predicts. Adapters are switched, never merged,
and all of them stay trainable whichever is switched on (peft would freeze the others, and with them the gradients of a
step that used several).

What a lesson's gradient is on each of the 16,384 values of a prediction at 512², 2 (ε̂ − ε)/16384, lies below the normal
numbers of float16. One in float16 is therefore given it times a power of two, by which the matrices' own gradients,
in float32, are divided again (see `Adapters.lift`).
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from pds_nerfstudio.draws import own_draws
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.lora import ATTENTION, add_lora
from pds_nerfstudio.priors.placement import device_of, dtype_of

ADAPTER_RATE = 1e-4
"""Learning rate of VSD's and Piva's adapters beside an edit (Le et al. 2024, A.1)."""
WARMUP_RATE = 1e-3
"""Learning rate before one, where nothing depends yet on what is half learned."""


class Adapters:
    """Named LoRA adapters of one denoiser. A plain object: it is in no pipeline's state dict by itself."""

    def __init__(self, denoiser: Any, names: Sequence[str], rank: int, seed: int = 0):
        """Put fresh adapters into `denoiser`, in float32 whatever its precision.

        Raises:
            UserError: the rank is not positive, or it has no attention that can be adapted.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.denoiser, self.names, self.rank = denoiser, tuple(names), rank
        with own_draws(denoiser.device, seed):
            for name in self.names:
                add_lora(denoiser, name, rank, ATTENTION)
        # Found once: a step switches adapters several times, and it has many modules without any.
        self._layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
        self._matrices = {name: _matrices(denoiser, name) for name in self.names}
        self._lifted: dict[str, Tensor] = {}
        """By adapter, what the gradient that entered the denoiser last was multiplied with."""
        for parameter in self.parameters():
            parameter.data = parameter.data.float()
        self._switch(None)
        for name in self.names:
            for parameter in self.parameters(name):
                parameter.register_hook(functools.partial(self._lower, name))

    def parameters(self, name: str | None = None) -> list[Parameter]:
        """The matrices of one adapter, or of all."""
        return list(self._named(name).values())

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Within this block the denoiser predicts with that adapter; with None, as the frozen prior.

        Raises:
            ValueError: there is no adapter of that name.
        """
        if name is None:
            yield
            return
        if name not in self.names:
            raise ValueError(f"The prior has no adapter {name!r}, only {', '.join(self.names)}.")
        self._switch(name)
        try:
            yield
        finally:
            self._switch(None)

    def lift(self, name: str, prediction: Tensor) -> None:
        """Let the gradient on an adapter's `prediction` enter a denoiser in float16 with a greatest value in [1, 2)."""
        if dtype_of(self.denoiser) != torch.float16:
            return

        def lifted(gradient: Tensor) -> Tensor:
            greatest = gradient.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
            factor = torch.exp2(-greatest.log2().floor())
            # Where the matrices are, whose gradients are divided by it.
            self._lifted[name] = factor.to(device_of(self.denoiser))
            return gradient * factor

        prediction.register_hook(lifted)

    def _lower(self, name: str, gradient: Tensor) -> Tensor:
        return gradient / self._lifted[name] if name in self._lifted else gradient

    def reset(self, seed: int = 0) -> None:
        """Forget what was learned: fresh adapters, which predict what the prior predicts."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self._named().items():
                fresh = torch.zeros(parameter.shape)
                if ".lora_A." in name:  # as peft's "gaussian" draws it
                    fresh.normal_(std=1 / self.rank, generator=generator)
                parameter.copy_(fresh)

    def state_dict(self) -> dict[str, Tensor]:
        """All matrices by name."""
        return {name: parameter.detach().clone() for name, parameter in self._named().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over matrices that `state_dict` gave.

        Raises:
            UserError: they belong to adapters of another rank, name or prior.
        """
        own = self._named()
        if own.keys() != state.keys() or any(own[name].shape != value.shape for name, value in state.items()):
            raise UserError(
                "The adapters of the edit's checkpoint do not fit this prior: resume with the same prior and "
                "--pipeline.adapter-rank."
            )
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    def _named(self, adapter: str | None = None) -> dict[str, Parameter]:
        names = self.names if adapter is None else (adapter,)
        return {name: parameter for adapter in names for name, parameter in self._matrices[adapter].items()}

    def _switch(self, name: str | None) -> None:
        """To that adapter, or to none; all stay trainable."""
        for layer in self._layers:
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        for parameter in self.parameters():
            parameter.requires_grad_(True)


def _matrices(denoiser: Any, adapter: str) -> dict[str, Parameter]:
    sides = f".lora_A.{adapter}.", f".lora_B.{adapter}."
    return {name: matrix for name, matrix in denoiser.named_parameters() if any(side in name for side in sides)}
