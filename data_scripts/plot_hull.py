"""Draws where a prior asks for change: relevance maps of some views, and the hull they make in space.

python data_scripts/plot_hull.py --edit raise-arms --out docs/figures/hull.png
"""

import contextlib
import copy
import io
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import tyro

from pds_nerfstudio.evaluation import trial
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.scenes.hull import box_of
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import find_edit


def main(edit: str = "raise-arms", out: Path = Path("outputs/hull.png"), seed: int = 0) -> None:
    """Reconstruct the edit's source as splats, ask the toybox prior, and draw."""
    toy = find_edit(edit)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(scratch)
        write_edit(toy, folder / "scene", seed=seed)
        source = trial.reconstruct("splatfacto", folder / "scene/source", folder, 600, seed)
        config = copy.deepcopy(METHODS["pnr-edit-splat"].config)
        config.load_dir, config.output_dir, config.vis = source.parent, folder / "edit", "tensorboard"
        config.logging.local_writer.enable = False
        settings = {"src_prompt": toy.source_prompt, "tgt_prompt": toy.target_prompt, "prior": "toybox"}
        for name, value in settings.items():
            setattr(config.pipeline, name, value)
        config.set_timestamp()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        pipeline = trainer.pipeline
        hull = pipeline.relevant_hull()
        images = [pipeline.source_view(i).image[0].movedim(0, -1).float() for i in range(3)]
        means = pipeline.model.means.detach()

    figure, axes = plt.subplots(2, 4, figsize=(12, 5.6), layout="constrained")
    for i, image in enumerate(images):
        axes[0, i].imshow(image)
        axes[1, i].imshow(hull.masks[i], vmin=0, vmax=1)
        axes[0, i].set_title("source view", fontsize=9)
        axes[1, i].set_title("its relevance", fontsize=9)
    low, high = box_of(means, 1.0)
    low, high = low - 0.15, high + torch.tensor([0.15, 0.15, 0.35])
    x, z = torch.linspace(float(low[0]), float(high[0]), 160), torch.linspace(float(low[2]), float(high[2]), 160)
    plane = torch.stack(torch.meshgrid(x, z, indexing="xy"), -1)
    points = torch.stack(
        [plane[..., 0], torch.full_like(plane[..., 0], float(means[:, 1].median())), plane[..., 1]], -1
    )
    relevance = hull.relevance(points.reshape(-1, 3)).reshape(160, 160)
    extent = (float(low[0]), float(high[0]), float(low[2]), float(high[2]))
    axes[0, 3].imshow(relevance, origin="lower", extent=extent, vmin=0, vmax=1)
    axes[0, 3].contour(x, z, relevance, [0.5], colors="white", linewidths=1)
    axes[0, 3].set_title("of points in a vertical plane; hull in white", fontsize=9)
    axes[1, 3].scatter(means[:, 0], means[:, 2], s=2, c=hull.relevance(means), vmin=0, vmax=1)
    axes[1, 3].set_title("of the Gaussians, from the side", fontsize=9)
    axes[1, 3].set_aspect("equal")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(f"“{toy.source_prompt}” → “{toy.target_prompt}”", fontsize=10)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    tyro.cli(main)
