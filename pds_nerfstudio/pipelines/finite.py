"""Whether what a step made is finite, asked once a step: looking at a GPU's tensor waits for all that it has to do."""

from collections.abc import Callable

import torch
from torch import Tensor

from pds_nerfstudio.pipelines.distributed import NonFiniteGradient


class FiniteChecks:
    """Tensors of one step that have to be finite, and what to say of each that is not."""

    def __init__(self) -> None:
        self._finite: list[Tensor] = []
        self._said: list[Callable[[], str]] = []

    def watch(self, tensor: Tensor, said: Callable[[], str]) -> None:
        """Look at this tensor at the next `require`; only the answer is kept until then.

        Args:
            said: what is not finite, in words; called where it is not.
        """
        self._finite.append(tensor.detach().isfinite().all())
        self._said.append(said)

    def forget(self) -> None:
        """Begin a step: what an unfinished one has left behind does not count."""
        self._finite, self._said = [], []

    def require(self) -> None:
        """Raise `NonFiniteGradient` for the first of the watched tensors that is not finite, and forget all."""
        finite, said = self._finite, self._said
        self.forget()
        if not finite:
            return
        answers = torch.stack(finite).tolist()  # the one look
        if not all(answers):
            raise NonFiniteGradient(f"{said[answers.index(False)]()} is not finite")
