"""Redraws, normalised gradients and DreamCatalyst on bare latents: one view each of a colour, a hat and a shape.

    python benchmarks/controls.py --out outputs/controls            # ten minutes on one core

`edit_latents` takes 200 steps with toybox's prior and its recipe's timesteps. Of each row and edit: PSNR to the truth
where source and target differ, PSNR to what the VAE makes of the source elsewhere, further calls of the
network per step, and seconds of CPU.
"""

import tempfile
import time
from pathlib import Path

import torch
import tyro
from torch import Tensor

from pds_nerfstudio.evaluation.trial import seen_from
from pds_nerfstudio.objectives import DDS, PDS, DreamCatalyst
from pds_nerfstudio.objectives.base import ScoreDistillation
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.pictures import contact_sheet, read_images
from pds_nerfstudio.pipelines.image_edit import edit_latents
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit

EDITS = ("red-to-blue", "man-hat", "can-to-cone")
VIEW = "test_002.png"
CHANGED = 0.05
"""Largest difference of a pixel's channels between source and target from which on it counts as changed."""
T = {"min_step_percent": 0.1, "max_step_percent": 0.9}
ROWS: dict[str, ScoreDistillation] = {
    "DDS at 2": DDS(guidance_scale=2.0, **T),
    "DDS at 2, normalised": DDS(guidance_scale=2.0, normalise=0.15, **T),
    "DDS at 2, redrawn below 0.05": DDS(guidance_scale=2.0, redraw_below=0.05, **T),
    "DreamCatalyst at 7.5": DreamCatalyst(**T),
    "DreamCatalyst at 7.5, normalised": DreamCatalyst(normalise=0.15, **T),
    "DreamCatalyst at 2": DreamCatalyst(guidance_scale=2.0, **T),
    "DreamCatalyst at 3": DreamCatalyst(guidance_scale=3.0, **T),
    "PDS at 7.5": PDS(guidance_scale=7.5, **T),
    "PDS at 7.5, normalised": PDS(guidance_scale=7.5, normalise=0.15, **T),
    "DDS at 2, redrawn below 0.15": DDS(guidance_scale=2.0, redraw_below=0.15, **T),
}


class Counting:
    """A prior that counts how often it is asked, and has everything else of another."""

    def __init__(self, prior):
        self.prior, self.calls = prior, 0

    def __getattr__(self, name: str):
        return getattr(self.prior, name)

    def predict_noise(self, queries):
        self.calls += 1
        return self.prior.predict_noise(queries)


def decibels(image: Tensor, other: Tensor, mask: Tensor) -> float:
    """PSNR where the mask is 1."""
    error = ((image - other).square() * mask).sum() / (3 * mask.sum())
    return -10 * float(error.log10())


class Case:
    """One held-out view of an edit: what it shows and should show, and where they differ."""

    def __init__(self, name: str, prior):
        edit = find_edit(name)
        self.prompts = edit.source_prompt, edit.target_prompt
        with tempfile.TemporaryDirectory() as folder:
            write_edit(edit, Path(folder), seed=0)
            self.source, self.truth = (
                read_images([Path(folder) / side / "images" / VIEW]) for side in ("source", "target")
            )
            self.cameras: Viewpoints | None = seen_from(prior, Path(folder) / "source", [VIEW])
        self.changed = ((self.source - self.truth).abs().amax(1, keepdim=True) > CHANGED).float()
        with torch.no_grad():
            self.x0 = prior.encode(self.source)
        self._unchanged = prior.decode(self.x0)

    def distances(self, edited: Tensor) -> tuple[float, float]:
        """PSNR to the truth where source and target differ, and to what the VAE makes of the source elsewhere."""
        return (
            decibels(edited, self.truth, self.changed),
            decibels(edited, self._unchanged, 1 - self.changed),
        )


def main(rows: tuple[str, ...] = tuple(ROWS), steps: int = 200, out: Path = Path("outputs/controls")) -> None:
    """Measure, print, and draw.

    Args:
        rows: names of some rows.
        steps: of each edit.
        out: where the sheet is drawn: source, truth, then the rows.
    """
    prior, pictures = load_prior("toybox", "cpu"), {}
    print("| | edit | in mask, dB | elsewhere, dB | further calls | CPU seconds |\n|---|---|---:|---:|---:|---:|")
    for name in EDITS:
        case = Case(name, prior)
        pictures[name] = [case.source[0], case.truth[0]]
        for row in rows:
            asked, begun = Counting(prior), time.process_time()
            latents = edit_latents(asked, ROWS[row], case.x0, *case.prompts, steps, cameras=case.cameras)  # pyright: ignore[reportArgumentType]
            edited = prior.decode(latents)
            pictures[name].append(edited[0])
            found = case.distances(edited)
            more = asked.calls / steps - 1
            spent = time.process_time() - begun
            print(f"| {row} | {name} | {found[0]:.1f} | {found[1]:.1f} | {more:.1f} | {spent:.0f} |", flush=True)
    contact_sheet(pictures, out / "controls.png", "Bare latents, 200 steps", 128, ["source", "truth", *rows], {})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
