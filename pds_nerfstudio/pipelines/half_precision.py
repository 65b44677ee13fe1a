"""Gradients of NeRF edits under float16 autocast: the scale they begin at, and the steps that overflow all the same.

float16 holds 6e-8 to 65504. nerfstudio's photometric losses are means over rays and begin at a scale of 65536; a score
loss is a sum over latents, whose gradients on the image reach 90, and a scale of 256 is too much for them
(docs/performance.md).
"""

from typing import Any

import torch

OF_MEANS = 2.0**16
"""torch's own."""
OF_SUMS = 2.0**4
"""An eighth of what has been seen to be small enough; a thousandth of the gradient is as exact under it."""
LEAST = 2.0**-8
"""Scale below which gradients are not large but wrong."""


class CountingScaler(torch.amp.GradScaler):
    """torch's scaler, which counts the steps that it leaves out."""

    overflown = 0
    """Steps with a gradient too large for float16 so far: the scale was halved, and what it belongs to not moved."""
    _last: float | None = None

    def get_scale(self) -> float:
        """The scale. nerfstudio asks before and after each update, which is where a smaller one is noticed: another
        question would make the CPU wait for the GPU."""
        scale = super().get_scale()
        self.overflown += self._last is not None and scale < self._last
        self._last = scale
        return scale

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at that scale; from a run without one, such as a CPU's, begin anew."""
        self._last = None
        if state_dict:
            super().load_state_dict(state_dict)
