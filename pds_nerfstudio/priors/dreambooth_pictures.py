"""The pictures of `pds dreambooth`: photographs that are learned, samples that keep the rest, sheets of both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.draws import generator_at
from pds_nerfstudio.images import working_size
from pds_nerfstudio.objectives import Latents
from pds_nerfstudio.pictures import Images, contact_sheet, read_images, read_photograph, save_image, shown_size
from pds_nerfstudio.priors.dreambooth_files import saving
from pds_nerfstudio.priors.dreambooth_settings import CLASS_IMAGES, EMPTY_IMAGES, SAMPLES, DreamBooth

if TYPE_CHECKING:
    from pds_nerfstudio.priors.latent import LatentPrior

SAMPLES_PER_PROMPT = 4
Prompted = tuple[Float[Tensor, "_ channels height width"], str]
"""Latents, of any number, and what they show."""


@dataclass(frozen=True)
class Framing:
    """How photographs are brought to one size, that of the commonest shape among them.

    A photograph of another shape is scaled to cover it and cropped to its centre.
    """

    height: int
    width: int
    cropped: int
    """How many photographs lose a margin."""
    read: Callable[[Path], Images]
    """A photograph at its own working size, [1 3 height width], RGB in [0, 1]."""

    @classmethod
    def of(cls, paths: Sequence[Path], short_side: int, multiple: int, stored: bool = False) -> "Framing":
        """By their headers: hundreds of photographs are not held at once."""
        shapes = [working_size(*shown_size(path, stored), short_side, multiple) for path in paths]
        height, width = max(dict.fromkeys(shapes), key=shapes.count)
        cropped = sum(shape != (height, width) for shape in shapes)
        read = partial(read_photograph, short_side=short_side, multiple=multiple, stored=stored)
        return cls(height, width, cropped, read)

    def pictures(self, paths: Sequence[Path]) -> Float[Tensor, "photographs 3 height width"]:
        """These photographs at that size."""
        return torch.cat([self._framed(self.read(path)) for path in paths])

    def _framed(self, image: Float[Tensor, "1 3 _ _"]) -> Float[Tensor, "1 3 _ _"]:
        h, w = image.shape[-2:]
        if (h, w) == (self.height, self.width):
            return image
        scale = max(self.height / h, self.width / w)
        size = max(self.height, round(h * scale)), max(self.width, round(w * scale))
        scaled = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
        top, left = (size[0] - self.height) // 2, (size[1] - self.width) // 2
        return scaled[..., top : top + self.height, left : left + self.width]


@torch.no_grad()
def encoded(
    prior: "LatentPrior", paths: Sequence[Path], size: tuple[int, int], read: Callable[[Sequence[Path]], Images]
) -> Latents:
    """Latents on the CPU of pictures of one size (height, width), of which a few are read and encoded at a time."""
    at_once = prior.pictures_at_once(*size)
    parts = (paths[i : i + at_once] for i in range(0, len(paths), at_once))
    return torch.cat([prior.encode(read(part).to(prior.device)).cpu() for part in parts])


def preserved_latents(
    settings: DreamBooth, prior: "LatentPrior", accelerator: Any, out: Path, latent_size: Sequence[int]
) -> list[Prompted]:
    """What is preserved: latents of pictures of the class and of anything, with the prompt they were drawn under."""
    if not settings.class_images:
        return []
    draw = partial(drawn, settings, prior, accelerator, latent_size)
    sets = [(draw(out / CLASS_IMAGES, settings.class_prompt, settings.class_images), settings.class_prompt)]
    if settings.empty_images:
        sets.append((draw(out / EMPTY_IMAGES, "", settings.empty_images), ""))
    return sets


def drawn(
    settings: DreamBooth,
    prior: "LatentPrior",
    accelerator: Any,
    latent_size: Sequence[int],
    folder: Path,
    prompt: str,
    count: int,
) -> Latents:
    """Latents of what the prior draws under a prompt, made once and kept as files."""
    from rich.progress import track

    height, width = (side * prior.latent_stride for side in latent_size)
    files = [folder / f"{i:04d}.png" for i in range(count)]
    own = range(accelerator.process_index, count, accelerator.num_processes)
    # One noise for each group: of one that was interrupted all are drawn again, and those that were missing kept.
    groups = [own[i : i + 8] for i in range(0, len(own), 8)]
    parts = [group for group in groups if not all(files[i].is_file() for i in group)]
    guidance = settings.class_guidance_scale if prompt else 1.0
    for part in track(parts, f"drawing {folder.name}", disable=not parts or not accelerator.is_main_process):
        generator = generator_at(settings.seed, part[0])
        pictures = prior.sample([prompt] * len(part), height, width, settings.sample_steps, guidance, generator)
        with saving(folder.parents[1], "A class image"):
            for i, image in zip(part, pictures, strict=True):
                if not files[i].is_file():
                    save_image(image, files[i])
    accelerator.wait_for_everyone()
    return encoded(prior, files, (height, width), read_images)


def sample_sheet(settings: DreamBooth, prior: "LatentPrior", images: Tensor, out: Path, step: int) -> None:
    """Samples of every prompt from the same noise, under photographs."""
    for network in prior.parts().values():
        network.eval()
    prior.forget_texts()
    height, width = images.shape[-2:]
    rows: dict[str, Tensor] = {"photographs": images}
    for prompt in settings.prompts:
        generator = torch.Generator().manual_seed(settings.seed)
        asked = [prompt] * SAMPLES_PER_PROMPT
        rows[prompt] = prior.sample(
            asked, height, width, settings.sample_steps, settings.guidance_scale, generator
        ).cpu()
    with saving(out, f"The samples of step {step}"):
        contact_sheet(rows, out / SAMPLES / f"step_{step:06d}.png", f"after {step} steps")
