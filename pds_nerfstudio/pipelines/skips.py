"""Steps of an edit that change nothing, because their gradients are not finite or too large for float16."""

from dataclasses import dataclass
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines.half_precision import LEAST
from pds_nerfstudio.text import in_rich

MOST_IN_A_ROW = 5
"""Steps in a row without a finite gradient that end a run."""


@dataclass
class Skips:
    """How many there were; each is said, and too many end the run."""

    checkpoints: Path
    """Where the last checkpoint is, for the sentence that a run ends with."""
    total = 0
    """Of this process."""
    in_a_row = 0
    """Without a finite gradient."""

    def not_finite(self, step: int, reason: str) -> None:
        """A step had no finite gradient.

        Raises:
            UserError: it is the last of `MOST_IN_A_ROW`.
        """
        self.in_a_row += 1
        self._say(step, reason)
        if self.in_a_row >= MOST_IN_A_ROW:
            raise UserError(
                f"{self.in_a_row} steps in a row had no finite gradient ({reason}): lower the learning rate or the "
                f"guidance scale, or use --pipeline.precision fp32; the last checkpoint is in {self.checkpoints}."
            )

    def too_large(self, step: int, scale: float) -> None:
        """A step's gradients were too large for float16, and the scaler has lowered their scale.

        Raises:
            UserError: the scale is now below `LEAST`.
        """
        self._say(step, f"its gradients are too large for float16; their scale is now {scale:g}")
        if scale < LEAST:
            raise UserError(
                f"Step {step}'s gradients are too large for float16 at a scale of {scale:g}: lower the guidance "
                f"scale, or give --mixed-precision False; the last checkpoint is in {self.checkpoints}."
            )

    def _say(self, step: int, reason: str) -> None:
        self.total += 1
        CONSOLE.log(f"[yellow]Step {step:d} skipped ({self.total:d} so far): {in_rich(reason)}.")
