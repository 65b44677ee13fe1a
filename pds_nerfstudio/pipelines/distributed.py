"""One edit in several processes, as nerfstudio's launch starts them (torch.distributed): each shows the prior views of
its own, all of them take the same step.

nerfstudio wraps the model in DistributedDataParallel, which averages gradients of one forward pass through the wrapper.
An edit renders in chunks that are computed again in backward: gradients are averaged here instead, before the
optimisers step. With one process nothing here does anything.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler


class NonFiniteGradient(ArithmeticError):
    """A step whose gradient holds NaN or infinity; the trainer skips it."""


class NonFiniteElsewhere(NonFiniteGradient):
    """The same in another process, which has already said so to all."""


def count() -> int:
    """How many processes edit together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set in any process."""
    if count() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def mean(values: Sequence[float], device: torch.device) -> list[float]:
    """The mean over all processes of each of these numbers."""
    if count() == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(shared)
    return (shared / count()).tolist()


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Give every process the tensors of the first."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Set every gradient to its mean over all processes; where a process has none, it counts as 0.

    A parameter that no process has a gradient for keeps none.
    """
    if count() == 1 or not parameters:
        return
    present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=parameters[0].device)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    for parameter, anywhere in zip(parameters, present.tolist(), strict=True):
        if not anywhere:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= count()


class SharedOptimizers(Optimizers):
    """nerfstudio's optimisers, stepping on the mean gradient of all processes."""

    def __init__(self, config: dict[str, Any], param_groups: dict[str, Any], require_finite: Callable[[], None]):
        """`require_finite` raises `NonFiniteGradient` for a step that this process cannot take."""
        super().__init__(config, param_groups)
        self._require_finite = require_finite

    def optimizer_scaler_step_some(self, grad_scaler: GradScaler, param_groups: list[str]) -> None:
        """Average and step. Raises `NonFiniteGradient`, and `NonFiniteElsewhere` where it is another process that
        could not finish this step."""
        self._require_finite()
        if count() > 1 and param_groups:
            parameters = [parameter for group in param_groups for parameter in self.parameters[group]]
            if any_of(False, parameters[0].device):
                raise NonFiniteElsewhere("another process met a gradient that is not finite")
            average_gradients(parameters)
        super().optimizer_scaler_step_some(grad_scaler, param_groups)
