"""The two figures about Piva in docs/piva.md.

    python data_scripts/plot_piva.py drift --edit red-to-blue --out outputs/piva_drift     # runs the edits itself
    python data_scripts/plot_piva.py weights --results OUT/SUITE/splatfacto/results.json --out figure.png

`drift` edits held-out photographs in two dimensions by DDS and by Piva (Le et al. 2024, figure 1: DDS goes on and
over-saturates, Piva does not) and measures all along. `weights` draws a benchmark's cells over λ (their figure 7).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import tyro
from rich.progress import Progress
from torch import Tensor
from tyro.extras import SubcommandApp

from pds_nerfstudio.evaluation.image_trial import held_out
from pds_nerfstudio.evaluation.metrics import psnr, saturation
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.objectives import DDS, Piva
from pds_nerfstudio.pictures import Images, contact_sheet, read_images
from pds_nerfstudio.pipelines.image_edit import edit_latents
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.toybox.dataset import change_mask, write_edit
from pds_nerfstudio.toybox.spec import find_edit

app = SubcommandApp()
PAPERS = Piva(regularisation=0.4)
ROWS = {
    "DDS": (DDS(guidance_scale=7.5), {}),
    "Piva, the paper's settings": (PAPERS, {}),
    "Piva, separate latents, adapters taught": (
        replace(PAPERS, noisy_source="separate", regularisation=1.6),
        {"adapter_rate": 1e-3, "adapter_warmup": 300},
    ),
}
SHOWN = (100, 300, 500, 1000)
"""Steps at which the sheet shows the edits."""


@app.command
def drift(
    edit: str = "red-to-blue",
    out: Path = Path("outputs/piva_drift"),
    views: int = 4,
    steps: int = 1000,
    every: int = 50,
) -> None:
    """Edit photographs and follow saturation, change mask and background over the steps.

    Args:
        views: photographs that are edited.
        every: steps between two measurements.
    """
    what, prior = find_edit(edit), load_prior("toybox", "cpu")
    write_edit(what, out / "scene")
    names = held_out(out / "scene")[:views]
    source, target = (
        read_images([out / "scene" / s / "images" / name for name in names]) for s in ("source", "target")
    )
    objects = read_images([out / "scene" / "target" / "object_masks" / name for name in names])[:, 0]
    changed = change_mask(source.movedim(1, -1), target.movedim(1, -1))
    with torch.no_grad():
        x0 = prior.encode(source)
    before, sheet, curves = through_vae(prior, source), {}, {}
    truth = float(saturation(through_vae(prior, target), objects).mean())

    def follow(row: str) -> tuple[list[list[float]], list[Tensor]]:
        """Step, saturation, change mask and background all along; and the first picture at the steps `SHOWN`."""
        objective, settings = ROWS[row]
        points, pictures, step = [], [], 0
        with Progress() as progress:
            task = progress.add_task(row, total=steps)

            def look(latents: Tensor) -> None:
                nonlocal step
                step += 1
                progress.advance(task)
                if step % every and step not in SHOWN:
                    return
                now = prior.decode(latents)
                in_mask, background = psnr(now, target, changed).mean(), psnr(now, before, 1 - changed).mean()
                points.append([step, float(saturation(now, objects).mean()), float(in_mask), float(background)])
                if step in SHOWN:
                    pictures.append(now[0])

            prompts = what.source_prompt, what.target_prompt
            edit_latents(prior, objective, x0, *prompts, steps, after_step=look, **settings)
        return points, pictures

    for row in ROWS:
        curves[row], pictures = follow(row)
        sheet[row] = [source[0], *pictures, target[0]]
    write_whole(out / "curves.json", json.dumps({"truth": truth, "curves": curves}, indent=1))
    columns = ("source", *(f"step {step}" for step in SHOWN), "ground truth")
    contact_sheet(sheet, out / "sheet.png", f"{what.source_prompt}   to   {what.target_prompt}", 110, columns)
    plot_drift(curves, truth, out / "drift.png")


@torch.no_grad()
def through_vae(prior: StableDiffusionPrior, images: Images) -> Images:
    """What the VAE keeps of pictures: an edit of nothing."""
    return prior.decode(prior.encode(images))


def plot_drift(curves: dict[str, Sequence[Sequence[float]]], truth: float, path: Path) -> None:
    """Saturation, change mask and background over the steps."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    titles = (
        "HSV saturation of the object",
        "PSNR to the truth in the change mask, dB",
        "PSNR to the source outside, dB",
    )
    for i, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for row, points in curves.items():
            axis.plot([p[0] for p in points], [p[i + 1] for p in points], label=row)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.2)
    axes[0].axhspan(0.9 * truth, 1.1 * truth, color="gray", alpha=0.2, label="ground truth ± 10 %")
    axes[1].legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="lower right")
    figure.savefig(path, dpi=90)


@app.command
def weights(results: Path, out: Path) -> None:
    """Draw a benchmark's Piva cells, one curve per edit over λ, with DDS as λ = 0."""
    figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
    records = json.loads(results.read_text())
    for i, edit in enumerate(dict.fromkeys(record["edit"] for record in records)):
        points = []
        for record in (r for r in records if r["edit"] == edit):
            given = re.search(r"regularisation=([\d.]+)", record["method"])
            if given or record["method"] == "dds-edit":
                numbers = record["metrics"]
                place = numbers["background_psnr"], numbers["psnr_to_target_in_change_mask_after"]
                points.append((float(given[1]) if given else 0.0, *place, numbers["target_probability_after"]))
        points.sort()
        axis.plot([p[1] for p in points], [p[2] for p in points], "o-", color=f"C{i}", label=edit)
        for weight, x, y, probability in points:
            axis.annotate(
                f"λ {weight:g} ({probability:.2f})", (x, y), fontsize=7, xytext=(4, 4), textcoords="offset points"
            )
    axis.set(xlabel="PSNR to the source outside the change mask (dB)", ylabel="PSNR to the truth within it (dB)")
    axis.grid(alpha=0.2)
    axis.legend(fontsize=8)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    app.cli(description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
