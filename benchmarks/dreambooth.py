"""What does DreamBooth learn, and what does it forget? Thirty photographs of a pink ball, a colour the prior never saw.

    python benchmarks/dreambooth.py                          # the table and the sheet
    python benchmarks/dreambooth.py --rows lora full

A row that is finished is kept in OUT/results.json and not computed again.

error        mean denoising error of held-out views under the instance prompt, on fixed draws of t and noise
subject      samples of the instance prompt whose hue is the subject's, within 30 degrees
colour       their colourfulness, as a share of the subject's
leak         the same of samples of the class prompt, which should not
class        class captions (a ball in eight colours on four floors): colour right, by toybox CLIP
others       twenty captions of all shapes: shape right
"""

import colorsys
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pds_nerfstudio.evaluation.metrics import ClipScorer, share_right
from pds_nerfstudio.pictures import contact_sheet, read_images
from pds_nerfstudio.priors.dreambooth import denoising_error, dreambooth
from pds_nerfstudio.priors.dreambooth_settings import CLASS_IMAGES, EMPTY_IMAGES, DreamBooth
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.toybox.dataset import write_scene
from pds_nerfstudio.toybox.spec import COLOURS, FLOORS, SHAPES, SceneSpec, held_out_captions

PINK = (1.0, 0.41, 0.71)
INSTANCE, CLASS = "a photo of a sks ball", "a photo of a ball"
SETTINGS = DreamBooth(
    instance_prompt=INSTANCE,
    class_prompt=CLASS,
    prior="toybox",
    layers="all",
    steps=600,
    batch_size=4,
    learning_rate=1e-3,
    class_images=100,
    empty_images=50,
    sample_every=0,
    class_guidance_scale=1.0,
    guidance_scale=4.0,
)
FULL = {"train": "full", "learning_rate": 2e-4}
ROWS: dict[str, dict[str, Any] | None] = {
    "prior": None,
    "lora": {},
    "lora, empty prompt not preserved": {"empty_images": 0},
    "lora, nothing preserved": {"class_images": 0},
    "full": FULL,
    "full, nothing preserved": FULL | {"class_images": 0},
}
SHOWN = (INSTANCE, CLASS, "a photo of a red ball", "a photo of a sks ball wearing a hat", "a photo of a green cube")
SAMPLE_STEPS, GUIDANCE = 8, 4.0


def main(
    rows: tuple[str, ...] = tuple(ROWS),
    out: Path = Path("outputs/dreambooth"),
    sheet: Path | None = None,
    seed: int = 0,
) -> None:
    """Train and measure what is missing, and print the table.

    Args:
        sheet: where to save samples of every row; by default in OUT.
    """
    data = out / "scene"
    if not (data / "transforms.json").is_file():
        write_scene(SceneSpec("ball", floor="gray"), data, train_views=30, test_views=12, paint=PINK)
    file, results = out / "results.json", {}
    if file.is_file():
        results = json.loads(file.read_text())
    for row in rows:
        if row in results:
            continue
        changes, folder = ROWS[row], out / row.replace(", ", "_").replace(" ", "_")
        if changes is not None:
            settings = replace(SETTINGS, seed=seed, **changes)
            for images in (CLASS_IMAGES, EMPTY_IMAGES):
                drawn = next(out.glob(f"*/{images}"), None)
                if drawn is not None and not (folder / images).exists():
                    shutil.copytree(drawn, folder / images)
            dreambooth(settings, sorted((data / "images").glob("train_*.png")), folder)
        results[row] = measure("toybox" if changes is None else str(folder), data, out / "samples" / f"{row}.pt")
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(row, results[row], flush=True)
    pictures = {row: torch.load(out / "samples" / f"{row}.pt", weights_only=True) for row in results}
    views = read_images(sorted((data / "images").glob("test_*.png")))
    for row, parts in pictures.items():
        results[row]["subject"], results[row]["colour"] = likeness(parts[0], views)
        results[row]["leak"], _ = likeness(parts[1], views)
    headings = [prompt.removeprefix("a photo of a ") for prompt in SHOWN for _ in range(2)]
    contact_sheet(
        {"held-out views": views[:2]}
        | {row: torch.cat([part[:2] for part in parts]) for row, parts in pictures.items()},
        sheet or out / "sheet.png",
        f"Samples after {SETTINGS.steps} steps on 30 photographs of a pink ball",
        tile=96,
        columns=headings,
    )
    show(results)


def measure(prior: str, data: Path, samples: Path) -> dict[str, float]:
    """The numbers of one prior; its samples of SHOWN go into a file."""
    model, scorer = load_prior(prior, "cpu"), ClipScorer.load()
    views = read_images(sorted((data / "images").glob("test_*.png")))
    generator = torch.Generator().manual_seed(7)

    def draw(prompts: list[str]) -> Tensor:
        parts = [prompts[i : i + 16] for i in range(0, len(prompts), 16)]
        return torch.cat([model.sample(part, 64, 64, SAMPLE_STEPS, GUIDANCE, generator) for part in parts])

    errors = []
    with torch.no_grad():
        x0 = model.encode(views)
        for _ in range(16):
            t = torch.randint(1000, (len(x0),), generator=generator)
            eps = torch.randn(x0.shape, generator=generator)
            errors.append(denoising_error(model, {"unet": model.unet}, x0, [INSTANCE] * len(x0), t, eps))
    shown = [draw([prompt] * 12 if prompt in (INSTANCE, CLASS) else [prompt] * 2) for prompt in SHOWN]
    samples.parent.mkdir(parents=True, exist_ok=True)
    torch.save(shown, samples)
    balls = [SceneSpec("ball", colour, floor) for colour in COLOURS for floor in FLOORS]
    of_class = draw([spec.prompt() for spec in balls])
    others = held_out_captions()[:160:8]
    of_others = draw([caption for _, caption in others])
    return {
        "error": float(torch.cat(errors).mean()),
        "class": share_right(scorer, of_class, balls, "colour", COLOURS),
        "others": share_right(scorer, of_others, [spec for spec, _ in others], "shape", SHAPES),
    }


def likeness(images: Tensor, views: Tensor) -> tuple[float, float]:
    """Share of images with the views' hue, within 30 degrees; and their mean colourfulness over that of the views."""
    hue, chroma = colour_of(views)
    hues, chromas = zip(*(colour_of(image[None]) for image in images), strict=True)
    near = [abs((own - hue + 180) % 360 - 180) < 30 for own in hues]
    return sum(near) / len(near), sum(chromas) / len(chromas) / chroma


def colour_of(images: Tensor) -> tuple[float, float]:
    """Hue in degrees and chroma (max − min of RGB) of the mean of the pixels of chroma above 0.15; NaN without any."""
    pixels = images.movedim(1, -1).reshape(-1, 3)
    pixels = pixels[pixels.amax(-1) - pixels.amin(-1) > 0.15]
    if len(pixels) == 0:
        return math.nan, math.nan
    mean = pixels.mean(0).tolist()
    return 360 * colorsys.rgb_to_hsv(*mean)[0], max(mean) - min(mean)


def show(results: dict[str, dict[str, float]]) -> None:
    """One line per row."""
    table = Table("row", "error", "change", "subject", "colour", "leak", "class", "others")
    before = results["prior"]["error"] if "prior" in results else math.nan
    for row, numbers in results.items():
        shares = (f"{numbers[name]:.1%}" for name in ("subject", "colour", "leak", "class", "others"))
        table.add_row(row, f"{numbers['error']:.4f}", f"{numbers['error'] / before - 1:+.0%}", *shares)
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
