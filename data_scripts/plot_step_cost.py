"""Draws docs/figures/step_cost.png from the numbers of `benchmarks/step_cost.py --out FILE.json`.

python data_scripts/plot_step_cost.py --numbers FILE.json
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import tyro

PARTS = {"unet": "U-Net", "vae_forward": "VAE forward", "vae_backward": "VAE backward"}


def main(numbers: Path, out: Path = Path("docs/figures/step_cost.png"), prior: str = "sd15") -> None:
    """Draw TFLOP by part and GiB kept for backward, ours beside the naive schedule."""
    rows: list[dict[str, Any]] = [row for row in json.loads(numbers.read_text())["prior"] if row["prior"] == prior]
    places, width = range(len(rows)), 0.38
    figure, (work, memory) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    below = [0.0] * len(rows)
    for part, label in PARTS.items():
        values = [row[part] / 1e12 for row in rows]
        work.bar([x - width / 2 for x in places], values, width, bottom=below, label=label)
        below = [a + b for a, b in zip(below, values, strict=True)]
    work.bar([x + width / 2 for x in places], [row["naive"] / 1e12 for row in rows], width, color="0.7", label="naive")
    for x, row in zip(places, rows, strict=True):
        work.hlines(row["floor"] / 1e12, x - width, x, color="k", label="floor" if x == 0 else None)
    work.set_ylabel("TFLOP per step")
    memory.bar([x - width / 2 for x in places], [row["kept"] / 2**30 for row in rows], width, label="ours, bf16")
    memory.bar(
        [x + width / 2 for x in places],
        [row["naive_kept"] / 2**30 for row in rows],
        width,
        color="0.7",
        label="naive, fp32",
    )
    memory.set_ylabel("GiB kept for backward")
    for axes in (work, memory):
        axes.set_xticks(list(places), [row["method"] for row in rows], rotation=20)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    tyro.cli(main)
