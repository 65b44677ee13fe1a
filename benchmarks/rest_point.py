"""Where objectives come to rest: the latent of one bare view, with no scene, no renderer and no encoder in the way.

    python benchmarks/rest_point.py --out outputs/rest_point            # five minutes on one core

A view of a toybox edit is descended in the prior's latent space by Adam, and decoded. Of each row: the mean colour of
what the edit changes, its value and saturation (of HSV), and dB to the true picture there and elsewhere. `held` is the
share of PDS's pull on the source that is left, 1 in the paper, 0 in DDS; `confined` moves what the edit changes, and a
latent around it, alone.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from pds_nerfstudio.objectives import DDS, PDS, Edit
from pds_nerfstudio.objectives.base import ScoreDistillation
from pds_nerfstudio.objectives.pds import pds_coefficients
from pds_nerfstudio.objectives.schedule import broadcast
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit

CHANGED = 0.15
"""Sum of a pixel's differences between source and target from which on it counts as changed."""


@dataclass(frozen=True)
class Row:
    """One descent."""

    objective: ScoreDistillation
    held: float = 1.0
    confined: bool = False
    timesteps: tuple[int, int] = (100, 900)

    def __str__(self) -> str:
        said = f"{type(self.objective).__name__} at guidance {self.objective.guidance_scale:g}"  # pyright: ignore
        said += f", {self.held:g} held" if self.held != 1 else ""
        said += ", confined" if self.confined else ""
        return said + (f", t {self.timesteps[0]} to {self.timesteps[1]}" if self.timesteps != (100, 900) else "")


ROWS = (
    *(Row(PDS(guidance_scale=scale)) for scale in (3.0, 7.5, 15.0, 30.0)),
    Row(PDS(guidance_scale=7.5), timesteps=(100, 500)),
    Row(PDS(guidance_scale=7.5), timesteps=(500, 900)),
    *(Row(DDS(guidance_scale=scale)) for scale in (3.0, 7.5)),
    *(Row(PDS(guidance_scale=7.5), held, confined=True) for held in (1.0, 0.5, 0.25)),
    *(Row(DDS(guidance_scale=scale), confined=True) for scale in (2.0, 3.0, 5.0)),
)


def picture(folder: Path) -> Tensor:
    """The first photograph of a scene, [1 3 H W] in [0, 1]."""
    path = min((folder / "images").iterdir())
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255


def descend(row: Row, prior, prompts: tuple[str, str], x0_src: Tensor, changes: Tensor, steps: int) -> Tensor:
    """The latent that the objective comes to rest at, from the source's."""
    torch.manual_seed(0)
    x0 = x0_src.clone()
    optimizer = torch.optim.Adam([x0], lr=0.05)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    for _ in range(steps):
        t = torch.randint(*row.timesteps, (1,))
        edit = Edit(x0.clone(), x0_src, *prompts, t, t - 2, torch.randn_like(x0), torch.randn_like(x0))
        gradient = row.objective.gradient(prior, edit)
        if row.held != 1:
            pull = pds_coefficients(prior.schedule, edit.t, edit.s, "adjacent").identity
            gradient -= (1 - row.held) * broadcast(pull, x0) * (x0 - x0_src)
        x0.grad = gradient * changes if row.confined else gradient
        optimizer.step()
        falling.step()
    return x0


def measured(image: Tensor, truth: Tensor, changed: Tensor) -> str:
    """A row's numbers."""
    inside = image[0, :, changed]
    value, least = inside.max(0).values, inside.min(0).values
    error = (image - truth)[0].square()
    decibels = [f"{-10 * error[:, mask].mean().log10():.1f}" for mask in (changed, ~changed)]
    colour = " ".join(f"{channel:.2f}" for channel in inside.mean(1))
    return f"{colour} | {value.mean():.2f} | {((value - least) / (value + 1e-6)).mean():.2f} | {' | '.join(decibels)}"


def main(edit: str = "red-to-blue", steps: int = 250, out: Path = Path("outputs/rest_point")) -> None:
    """Measure, print, and draw.

    Args:
        edit: of toybox.
        steps: of each descent.
        out: where a row of pictures is drawn: source, truth, then the table's rows.
    """
    found, prior = find_edit(edit), load_prior("toybox", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_edit(found, Path(folder), train_views=2, test_views=1, size=64, num_points=100)
        source, truth = (picture(Path(folder) / name) for name in ("source", "target"))
    changed = ((source - truth).abs().sum(1) > CHANGED)[0]
    stride = prior.latent_stride
    changes = max_pool2d(max_pool2d(changed[None, None].float(), stride, stride), 3, 1, 1)
    x0_src, prompts = prior.encode(source), (found.source_prompt, found.target_prompt)
    print("| | mean colour | value | saturation | in mask, dB | elsewhere, dB |\n|---|---|---:|---:|---:|---:|")
    pictures = []
    for name, x0 in (("source", x0_src), ("truth", prior.encode(truth))):
        pictures.append(prior.decode(x0).clamp(0, 1))
        print(f"| {name} | {measured(pictures[-1], truth, changed)} |")
    for row in ROWS:
        pictures.append(prior.decode(descend(row, prior, prompts, x0_src, changes, steps)).clamp(0, 1))
        print(f"| {row} | {measured(pictures[-1], truth, changed)} |", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    strip = interpolate(torch.cat(pictures, 3), scale_factor=2)[0].permute(1, 2, 0)
    Image.fromarray((255 * strip).byte().numpy()).save(out / f"{edit}.png")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
