"""LUSD's third control on bare latents: a gradient masked by where the prior reads the words that are new.

    M ← 0.9 M + 0.1 A        A: cross-attention of the target's new words, from its least to its most in [0, 1]
    g ← (1 − b + b M) · g + λ (z − x)        b from 0 to 1 in the first half of the edit, λ = 0.02

    python benchmarks/attention_mask.py --out outputs/attention_mask          # three minutes on one core

As `benchmarks/controls.py`: one view each of a colour, a hat and a shape, 200 steps, toybox's prior; the rows differ in
nothing but the mask. LUSD also sharpens M by self-attention, which this leaves out.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import tyro
from controls import EDITS, Case, T
from torch import Tensor

from pds_nerfstudio.objectives import DDS, Query
from pds_nerfstudio.objectives.base import Edit, ScoreDistillation
from pds_nerfstudio.objectives.controls import Draw, Step, take_step
from pds_nerfstudio.pictures import contact_sheet
from pds_nerfstudio.pipelines import image_edit
from pds_nerfstudio.priors.attention import recorded, token_places
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.prompts import Sought

KEPT = 0.9
HOLD = 0.02


@dataclass(frozen=True)
class Row:
    """An objective, and what is done to its gradient."""

    guidance: float
    masked: bool = False
    blended: bool = False
    """Whether the mask comes in step by step."""
    hold: float = 0.0
    """λ."""


ROWS = {
    "DDS at 2": Row(2.0),
    "DDS at 2, masked from the start": Row(2.0, masked=True),
    "DDS at 2, masked": Row(2.0, masked=True, blended=True),
    "DDS at 2, masked and held": Row(2.0, masked=True, blended=True, hold=HOLD),
    "DDS at 7.5": Row(7.5),
    "DDS at 7.5, masked and held": Row(7.5, masked=True, blended=True, hold=HOLD),
}


class Masked:
    """`take_step`, with the gradient masked."""

    def __init__(self, row: Row, prior: Any, steps: int):
        self.row, self.prior, self.steps = row, prior, steps
        self.done, self.mask = 0, None

    def __call__(
        self,
        objective: ScoreDistillation,
        edit: Edit,
        ask: Callable[[Edit], Any],
        draw: Callable[[Sequence[int]], Draw],
    ) -> Step[Any]:
        taken = take_step(objective, edit, ask, draw)
        read = self.read(edit)
        self.mask = read if self.mask is None else KEPT * self.mask + (1 - KEPT) * read
        self.done += 1
        share = min(1.0, 2 * self.done / self.steps) if self.row.blended else 1.0
        seen = (self.mask / self.mask.amax((1, 2), keepdim=True))[:, None]
        gradient = (1 - share + share * seen) * taken.gradient + self.row.hold * (edit.x0_tgt - edit.x0_src)
        return dataclasses.replace(taken, gradient=gradient)

    @torch.no_grad()
    def read(self, edit: Edit) -> Tensor:
        """A: [B h w]."""
        new = [word for word in edit.tgt_prompt.split() if word not in edit.src_prompt.split()]
        tokens = [token for word in new for token in token_places(self.prior, Sought(edit.tgt_prompt, word))]
        x_t = self.prior.schedule.add_noise(edit.x0_tgt, edit.t, edit.eps)
        with recorded(self.prior, tokens, x_t.shape[-2:]) as layers:
            self.prior.predict_noise([Query(x_t, edit.t, edit.tgt_prompt, 1.0, cameras=edit.cameras)])
        height = x_t.shape[-2]
        maps = torch.stack([each for rows in layers if height / 4 <= rows <= height / 2 for each in layers[rows]]).mean(
            0
        )
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (maps - low) / (high - low).clamp(min=1e-9)


def main(steps: int = 200, out: Path = Path("outputs/attention_mask")) -> None:
    """Measure, print, and draw.

    Args:
        steps: of each edit.
        out: where the sheet is drawn: source, truth, the rows, and then their masks.
    """
    prior, pictures = load_prior("toybox", "cpu"), {}
    print("| | edit | in mask, dB | elsewhere, dB |\n|---|---|---:|---:|")
    for name in EDITS:
        case = Case(name, prior)
        pictures[name], masks = [case.source[0], case.truth[0]], []
        for label, row in ROWS.items():
            objective, step = DDS(guidance_scale=row.guidance, **T), Masked(row, prior, steps)
            with patch.object(image_edit, "take_step", step if row.masked else take_step):
                latents = image_edit.edit_latents(prior, objective, case.x0, *case.prompts, steps, cameras=case.cameras)
            edited = prior.decode(latents)
            pictures[name].append(edited[0])
            if step.mask is not None:
                masks.append(torch.nn.functional.interpolate(step.mask[:, None], scale_factor=4)[0].expand(3, -1, -1))
            found = case.distances(edited)
            print(f"| {label} | {name} | {found[0]:.1f} | {found[1]:.1f} |", flush=True)
        pictures[name] += masks[-1:]
    contact_sheet(
        pictures, out / "attention_mask.png", "DDS, masked", 128, ["source", "truth", *ROWS, "the last mask"], {}
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
