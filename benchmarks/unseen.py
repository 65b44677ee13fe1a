"""How much of what an edit did to the floor its encoder sees: pixels' and latents' deviations from the source.

    pds bench --suite suites/recipes.yaml --out outputs/recipes --methods 'pds-edit[max_num_iterations=400]' …
    python benchmarks/unseen.py --cells outputs/recipes/recipes/splatfacto --edit red-to-blue

For each run a line: root mean squares over the floor of the held-out views, and what a green tint of the same size
would have done to the latents.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.trial import render_eval_views
from pds_nerfstudio.priors.load import load_prior

GREEN = torch.tensor([-1.0, 1.0, -1.0])[:, None, None]


def floor_of(images: Tensor, stride: int) -> Tensor:
    """Which latents [views h w] show nothing but lit gray floor."""
    gray = (images.amax(1) - images.amin(1) < 0.05) & (images.mean(1) > 0.4) & (images.mean(1) < 0.6)
    return F.avg_pool2d(gray.float(), stride) > 0.99


def deviation(values: Tensor, reference: Tensor, where: Tensor) -> float:
    """Root mean square of the difference, over channels and the places that count."""
    return float((values - reference).square().mean(1)[where].mean().sqrt())


@torch.no_grad()
def main(cells: Path, edit: str, seed: int = 0) -> None:
    """Print the table.

    Args:
        cells: folder that `pds bench` wrote to.
        edit: name of an edit in it.
    """
    prior = load_prior("toybox", "cpu")
    source = render_eval_views(load_run(next((cells / "scenes" / f"{edit}.{seed}").glob("runs/source/*/*/config.yml"))))
    latents, floor = prior.encode(source), floor_of(source, prior.latent_stride)
    pixels = F.interpolate(floor[:, None].float(), scale_factor=prior.latent_stride)[:, 0] > 0
    print("| run | pixels | latents | latents under a tint |\n|---|---:|---:|---:|")
    for run in sorted((cells / "cells").glob(f"{edit}.*.{seed}/runs/edited/*/*/config.yml")):
        edited = render_eval_views(load_run(run))
        size = deviation(edited, source, pixels)
        tinted = prior.encode(torch.where(pixels[:, None], source + size * GREEN, source).clamp(0, 1))
        seen, of_tint = (deviation(x, latents, floor) for x in (prior.encode(edited), tinted))
        name = run.relative_to(cells / "cells").parts[0]
        print(f"| {name} | {size:.3f} | {seen:.2f} | {of_tint:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
