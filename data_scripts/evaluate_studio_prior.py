"""Prints how good a trained studio prior is: what it draws when asked, its VAE, and the CLIP that judges both.

    python data_scripts/evaluate_studio_prior.py --folder outputs/studio_prior --views outputs/studio_views

Asked for are the scenes of the twelve edits, which no training saw. A sample counts as right in object, material or
addition if the judge finds its caption likelier than those with every other object, material or addition. The judge
itself is measured on photographs of the same scenes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from studio_photographs import IMAGE_SIZE, Photographs
from studio_words import EVERY
from torch import Tensor
from torchvision.utils import save_image
from view_groups import VIEWS

from pds_nerfstudio.evaluation.metrics import ClipScorer, psnr
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.studio.spec import ADDITIONS, IMPOSSIBLE, MATERIALS, THINGS, StudioSpec, is_held_out

FIELDS = {"thing": THINGS, "material": MATERIALS, "addition": ADDITIONS}
SAMPLES_WANTED, JUDGE_WANTED, VAE_WANTED = 0.9, 0.97, 28
"""Shares, and dB."""


def alternatives(spec: StudioSpec, field: str) -> list[StudioSpec]:
    """The scenes that differ from it in that field alone, itself among them."""
    changed = [{"thing": spec.thing, "addition": spec.addition} | {field: value} for value in FIELDS[field]]
    able = [change for change in changed if (change["thing"], change["addition"]) not in IMPOSSIBLE]
    return [replace(spec, **change) for change in able]


def share_right(scorer: ClipScorer, images: Tensor, specs: Sequence[StudioSpec], field: str) -> float:
    """Share of the images [N 3 H W] whose own caption is the likeliest among those with every value of `field`."""
    right = 0
    for image, spec in zip(images, specs, strict=True):
        others = alternatives(spec, field)
        captions = [other.prompt(room=False, light=False) for other in others]
        right += others[int(scorer.similarity(image[None], captions).argmax())] == spec
    return right / len(specs)


def main(
    folder: Path = Path("outputs/studio_prior"),
    views: Path = Path("outputs/studio_views"),
    samples_per_scene: int = 8,
    steps: int = 50,
    guidance_scale: float = 4.0,
    seed: int = 0,
) -> None:
    """Print the table and save FOLDER/evaluated.png, a row for each scene.

    Args:
        folder: with `prior` and `clip`, as train_studio_prior.py writes them.
        views: with valid.pt.
        samples_per_scene: pictures drawn of each of the edits' scenes.
        steps: DDIM steps of each.
        guidance_scale: classifier-free guidance of the samples.
        seed: of the noise.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, scorer = load_prior(str(folder / "prior"), device), ClipScorer.load(folder / "clip")
    generator = torch.Generator().manual_seed(seed)
    asked = [spec for spec in EVERY if is_held_out(spec)]
    samples = torch.cat(
        [
            model.sample(
                [spec.prompt()] * samples_per_scene, IMAGE_SIZE, IMAGE_SIZE, steps, guidance_scale, generator
            ).cpu()
            for spec in track(asked, "sampling")
        ]
    )
    save_image(samples, folder / "evaluated.png", nrow=samples_per_scene)
    drawn = [spec for spec in asked for _ in range(samples_per_scene)]

    valid = Photographs.load(views, "valid.pt")
    photographs = valid.images.flatten(0, 1) / 255
    shown = [EVERY[number] for number in valid.specs.repeat_interleave(VIEWS).tolist()]
    parts = photographs.split(16)
    with torch.no_grad():
        decoded = torch.cat([model.decode(model.encode(part.to(device))).cpu() for part in parts])

    table = Table("what", "measured", "wanted", title=f"{folder}, {len(samples)} samples of {steps} DDIM steps")
    for who, images, specs, wanted in (
        ("samples", samples, drawn, SAMPLES_WANTED),
        ("judge on photographs", photographs, shown, JUDGE_WANTED),
    ):
        for field in FIELDS:
            table.add_row(f"{who}: {field} right", f"{share_right(scorer, images, specs, field):.1%}", f"{wanted:.0%}")
    table.add_row("VAE on photographs", f"{psnr(decoded, photographs).mean():.2f} dB", f"{VAE_WANTED} dB")
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
