"""Prints how good the toybox prior is: what it draws when asked, its VAE, and the CLIP that judges both.

    python data_scripts/evaluate_toybox_prior.py                              # the weights in the package
    python data_scripts/evaluate_toybox_prior.py --samples-per-prompt 50      # slow: 10,000 samples

Prompts are the 200 whose colour and shape were never trained together. A sample counts as right in colour (shape) if
the toybox CLIP finds its caption more likely than the captions with every other colour (shape).
"""

import math
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchvision.utils import save_image

from pds_nerfstudio.evaluation.metrics import TOYBOX_CLIP, ClipScorer, psnr, share_right
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import COLOURS, HATS, SHAPES, all_specs, held_out_captions


def main(
    prior: str = str(TOYBOX),
    clip: Path = TOYBOX_CLIP,
    samples_per_prompt: int = 2,
    steps: int = 50,
    guidance_scale: float = 4.0,
    renders: int = 200,
    sheet: Path = Path("outputs/prior_samples.png"),
    seed: int = 0,
) -> None:
    """Print the table.

    Args:
        prior: diffusers folder.
        clip: transformers folder of the judge.
        samples_per_prompt: pictures drawn for each of the 200 prompts.
        steps: DDIM steps of each.
        guidance_scale: classifier-free guidance of the samples.
        renders: held-out renders for the VAE and the judge.
        sheet: where to save the first samples.
        seed: of noise and cameras.
    """
    model, scorer = load_prior(prior, "cpu"), ClipScorer.load(clip)
    generator = torch.Generator().manual_seed(seed)
    asked = [pair for pair in held_out_captions() for _ in range(samples_per_prompt)]
    specs = [spec for spec, _ in asked]
    samples = torch.cat(
        [
            model.sample([prompt for _, prompt in asked[i : i + 20]], 64, 64, steps, guidance_scale, generator)
            for i in track(range(0, len(asked), 20), "sampling")
        ]
    )
    sheet.parent.mkdir(parents=True, exist_ok=True)
    save_image(samples[:: max(1, len(samples) // 80)][:80], sheet, nrow=16)

    every = list(all_specs())
    chosen = [every[i] for i in torch.randperm(len(every), generator=generator)[:renders].tolist()]
    cameras = capture_cameras(len(chosen), 1000 + seed)
    truth = torch.cat(
        [render(s, cameras[i : i + 1], 64, 64).image for i, s in track(list(enumerate(chosen)), "rendering")]
    ).movedim(-1, 1)
    decoded = torch.cat([model.decode(model.encode(part).detach()) for part in truth.split(20)])

    table = Table("what", "measured", "wanted", title=f"{prior}, {len(samples)} samples of {steps} DDIM steps")
    rows = [
        ("samples: colour right", share_right(scorer, samples, specs, "colour", COLOURS), 0.90),
        ("samples: shape right", share_right(scorer, samples, specs, "shape", SHAPES), 0.85),
        ("samples: hat right", share_right(scorer, samples, specs, "hat", HATS), math.nan),
        ("judge on held-out renders: colour right", share_right(scorer, truth, chosen, "colour", COLOURS), 0.97),
        ("judge on held-out renders: shape right", share_right(scorer, truth, chosen, "shape", SHAPES), 0.97),
        ("judge on held-out renders: hat right", share_right(scorer, truth, chosen, "hat", HATS), 0.97),
    ]
    for what, measured, wanted in rows:
        table.add_row(what, f"{measured:.1%}", "" if math.isnan(wanted) else f"{wanted:.0%}")
    table.add_row("VAE on held-out renders", f"{psnr(decoded, truth).mean():.2f} dB", "30 dB")
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
