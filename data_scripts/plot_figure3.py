"""Draw docs/figures/figure3.png: SDS, DDS and PDS on an exact two-dimensional prior (Koo et al. 2024, figure 3).

python data_scripts/plot_figure3.py [--output docs/figures/figure3.png]
"""

from pathlib import Path

import matplotlib
import torch
import tyro

matplotlib.use("Agg")
import matplotlib.patheffects as patheffects
import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

from pds_nerfstudio.objectives import DDS, PDS, SDS
from pds_nerfstudio.objectives.figure3 import SOURCE, TARGET, starting_points, trajectories, two_marginals

EXTENT = 2.1
BOTTOM_TOP = (-2.05, 1.85)
RED, BLUE, INK = "#c8463c", "#3a6fb0", "#26262b"


def density(prior, label: str, points: int = 240):
    """p(x⁰ | label) on a square grid."""
    axis = torch.linspace(-EXTENT, EXTENT, points, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    grid = torch.stack([x, y], dim=-1).reshape(-1, 2, 1, 1)
    first_step = torch.zeros(len(grid), dtype=torch.int64)
    return prior.log_density(grid, first_step, label).exp().reshape(points, points).numpy()


def main(output: Path = Path("docs/figures/figure3.png"), points: int = 10, seed: int = 2) -> None:
    """Draw the figure.

    Args:
        output: Where the PNG is written.
        points: How many points are edited.
        seed: Of the starting points and of the noise.
    """
    prior = two_marginals()
    start = starting_points(prior, points, torch.Generator().manual_seed(seed))
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10.5, "text.color": INK})
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.55), sharex=True, sharey=True)

    for panel, objective in zip(axes, (SDS, DDS, PDS), strict=True):
        for label, color in ((SOURCE, RED), (TARGET, BLUE)):
            fade = LinearSegmentedColormap.from_list(label, [(1, 1, 1, 0), color])
            panel.imshow(
                density(prior, label), origin="lower", extent=(-EXTENT, EXTENT) * 2, cmap=fade, alpha=0.6, zorder=0
            )
        panel.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 4)), alpha=0.55, zorder=1)

        path = trajectories(objective(guidance_scale=1.0), prior, start, torch.Generator().manual_seed(seed))
        for x, y in path.numpy().transpose(0, 2, 1):
            panel.plot(x, y, color=INK, linewidth=1.1, alpha=0.85, zorder=2)
        panel.scatter(*start.T, s=26, color="white", edgecolors=INK, linewidths=1.1, zorder=3)
        panel.scatter(*path[:, -1].T, s=150, marker="*", color="#ffcf33", edgecolors=INK, linewidths=0.9, zorder=4)

        distance = (path[:, -1] - start).norm(dim=1).mean()
        panel.set_title(objective.__name__, fontsize=15, fontweight="bold", color=INK, pad=8)
        note = panel.text(0, -1.92, f"mean distance moved: {distance:.2f}", ha="center", va="bottom", color=INK)
        note.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
        panel.set(xlim=(-EXTENT, EXTENT), ylim=BOTTOM_TOP, aspect="equal", xticks=[], yticks=[])
        panel.spines[:].set(color="#b9b9c0", linewidth=0.8)

    axes[0].text(-1.97, 1.7, r"$p(x^0\,|\,y_\mathrm{src})$", color=RED, va="top")
    axes[0].text(1.97, 1.7, r"$p(x^0\,|\,y_\mathrm{tgt})$", color=BLUE, va="top", ha="right")
    axes[2].text(0.06, 1.79, "both equally likely", color=INK, alpha=0.75, va="top", fontsize=9)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130, bbox_inches="tight", pad_inches=0.12)
    print(f"Wrote {output}")
    print_distances(prior, seed)


def print_distances(prior, seed: int, points: int = 64) -> None:
    """Mean distance moved for several guidance scales: the table of docs/mathematics.md."""
    start = starting_points(prior, points, torch.Generator().manual_seed(seed))
    print("guidance   " + "   ".join(f"{objective.__name__:>5}" for objective in (SDS, DDS, PDS)))
    for guidance_scale in (1.0, 2.0, 7.5):
        distances = []
        for objective in (SDS, DDS, PDS):
            path = trajectories(objective(guidance_scale), prior, start, torch.Generator().manual_seed(seed))
            distances.append((path[:, -1] - start).norm(dim=1).mean())
        print(f"{guidance_scale:8.1f}   " + "   ".join(f"{distance:5.2f}" for distance in distances))


if __name__ == "__main__":
    tyro.cli(main)
