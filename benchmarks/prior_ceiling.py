"""What a prior itself knows of an edit: SDEdit of the ground-truth edited pictures, in dB to them, without any scene.

    python benchmarks/prior_ceiling.py                                     the packaged prior, the dev suite
    python benchmarks/prior_ceiling.py --prior FOLDER --edits red-to-blue can-to-cone --views 16

Noise takes part of the true picture away and the prior draws it again under the target's prompt: what comes back
differs from the truth by what the prior does not know. No edit with this prior can be expected far above it. Views are
groups of four, 90 degrees apart, at the elevations of a toybox capture; a prior that takes cameras is asked in three
ways: without, with each view's camera, and four views at once. Prints a Markdown table of PSNR within the change mask,
the mean over views; `--csv-path` appends the same numbers to a file, to follow a training.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.progress import track
from torch import Tensor

from pds_nerfstudio.evaluation.metrics import psnr
from pds_nerfstudio.evaluation.suite import read_suite
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.sdedit import SDEdit
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.multi_view import MultiViewPrior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.toybox.dataset import change_mask
from pds_nerfstudio.toybox.render import orbit_cameras, render, toybox_matrices
from pds_nerfstudio.toybox.spec import ToyEdit, find_edit

SUITE = Path(__file__).parent.parent / "suites" / "dev.yaml"
SIZE = 64
GROUP = 4
STEPS = 20
MOST_COLUMNS = 6


@dataclass
class Case:
    """An edit's true pictures, from groups of four views."""

    edit: ToyEdit
    x0: Tensor
    target: Tensor
    mask: Tensor
    cameras: Tensor


def group_cameras(groups: int, seed: int) -> Tensor:
    """Cameras [groups·4 3 4] at the distance, aim and elevations (14 to 46 degrees) of a toybox capture."""
    generator = torch.Generator().manual_seed(seed)
    offset, height = torch.rand(2, groups, generator=generator)
    azimuth = 2 * math.pi * offset[:, None] + math.pi / 2 * torch.arange(GROUP)
    return orbit_cameras(azimuth.flatten(), torch.deg2rad(14 + 32 * height).repeat_interleave(GROUP))


def make_case(prior: StableDiffusionPrior, edit: ToyEdit, views: int, seed: int) -> Case:
    poses = group_cameras(views // GROUP, seed)
    before, after = (render(spec, poses, SIZE, SIZE).image for spec in (edit.source, edit.target))
    target = after.movedim(-1, 1)
    return Case(edit, prior.encode(target).detach(), target, change_mask(before, after), toybox_matrices(poses))


def ways(prior: StableDiffusionPrior, case: Case) -> dict[str, Viewpoints | None]:
    """How the prior is asked: only one way if it takes no cameras."""
    plain: dict[str, Viewpoints | None] = {"no camera": None}
    if not isinstance(prior, MultiViewPrior):
        return plain
    return plain | {"camera": Viewpoints(case.cameras), "four views": Viewpoints(case.cameras, GROUP)}


def main(
    prior: str = "toybox",
    edits: tuple[str, ...] = (),
    views: int = 16,
    strengths: tuple[float, ...] = (0.4, 0.8),
    guidance_scales: tuple[float, ...] = (2.0, 7.5),
    seed: int = 0,
    csv_path: Path | None = None,
    label: str = "",
) -> None:
    """Print the table.

    Args:
        prior: diffusers folder, or toybox.
        edits: names of edits; by default those of the dev suite.
        views: of each edit, a multiple of 4.
        strengths: how much noise, as a fraction of T.
        guidance_scales: classifier-free guidance.
        seed: of cameras and noise.
        csv_path: a file to append every number to.
        label: what to call this row of the file, such as a training's step.
    """
    model = load_prior(prior, "cpu")
    chosen = [find_edit(name) for name in edits] or [
        edit for edit in read_suite(SUITE).edits if isinstance(edit, ToyEdit)
    ]
    eps = torch.randn(views, 4, SIZE // model.latent_stride, SIZE // model.latent_stride)
    eps.normal_(generator=torch.Generator().manual_seed(seed))
    results: dict[tuple[str, float, float], dict[str, float]] = {}
    for edit in track(chosen, "editing the truth"):
        case = make_case(model, edit, views, seed)
        for way, cameras in ways(model, case).items():
            for scale in guidance_scales:
                for strength in strengths:
                    sdedit = SDEdit(scale, strength, STEPS)
                    x0 = sdedit.edit(model, case.x0, edit.target_prompt, eps, cameras)
                    decibels = psnr(model.decode(x0), case.target, case.mask).nanmean()
                    results.setdefault((way, scale, strength), {})[edit.name] = float(decibels)
    # A column for each edit, or for each kind where there are many.
    few = len(chosen) <= MOST_COLUMNS
    columns = {edit.name: [edit.name] for edit in chosen} if few else {edit.kind: [] for edit in chosen}
    for edit in [] if few else chosen:
        columns[edit.kind].append(edit.name)
    columns["mean"] = [edit.name for edit in chosen]
    print(f"{prior}, {views} views, seed {seed}: PSNR in the change mask, dB\n")
    print(f"| asked | guidance | strength | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 3)}")
    for (way, scale, strength), by_edit in results.items():
        cells = [f"{sum(map(by_edit.__getitem__, names)) / len(names):.1f}" for names in columns.values()]
        print(f"| {way} | {scale:g} | {strength:g} | {' | '.join(cells)} |")
    if csv_path is not None:
        with csv_path.open("a", newline="") as file:
            writer = csv.writer(file)
            for (way, scale, strength), by_edit in results.items():
                for name, number in by_edit.items():
                    writer.writerow([label, way, scale, strength, name, f"{number:.3f}"])


if __name__ == "__main__":
    tyro.cli(main)
