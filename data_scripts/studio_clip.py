"""The judge of studio pictures: a small CLIP, trained on the same shards."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from long_training import LongTraining, Pace
from studio_photographs import IMAGE_SIZE, Photographs, as_floats
from studio_start import JUDGE, begin_as
from studio_unet import load_vae
from studio_words import EVERY, build_tokenizer
from torch import Tensor
from toybox_networks import contrastive_loss, make_clip, token_ids, write_clip
from transformers import CLIPModel, CLIPTokenizer
from view_groups import VIEWS

CURVE = ("step", "minutes", "seconds_per_step", "shards", "caption_right")
NOISE = 0.04
"""Greatest standard deviation of the noise on pictures."""
ZOOM, SHIFT = 0.25, 0.1
"""How much a picture is enlarged at most, and moved, in shares of its side."""


def train_clip(folder: Path, views: Path, batch_size: int, pace: Pace, from_package: bool) -> None:
    """Contrastive, with every caption of the batch that is true of a picture as its positive; FOLDER/clip.

    Beside that each picture has to find its own among all captions without room and light, which is what the judge is
    asked. Contrast alone confuses marble with white, and nothing with a book: few batches hold both.

    Half of the pictures come out of the VAE, some with noise, because the judge will see generated ones.
    """
    torch.manual_seed(pace.seed)
    vae, tokenizer = load_vae(folder, pace.device), build_tokenizer(folder / "tokenizer")
    clip = make_clip(tokenizer, IMAGE_SIZE).to(pace.device)
    if from_package:
        begin_as(clip, CLIPModel.from_pretrained(JUDGE).to(pace.device), tokenizer, JUDGE)
    plain = plain_captions()
    plain_ids = token_ids(tokenizer, plain, pace.device)
    training = LongTraining("clip", folder / "clip_training", clip, pace)
    data, valid = Photographs.load(views), Photographs.load(views, "valid.pt")

    def loss() -> Tensor:
        group, view = torch.randint(len(data.specs), (batch_size,)), torch.randint(VIEWS, (batch_size,))
        images = seen(vae, framed_anew(as_floats(data.images[group, view], pace.device)))
        specs = [EVERY[i] for i in data.specs[group].tolist()]
        said = (torch.rand(batch_size, 3) > torch.tensor([0.25, 0.5, 0.5])).tolist()
        captions = [spec.prompt(*s) for spec, s in zip(specs, said, strict=True)]
        true = [[spec.prompt(*s) == c for c, s in zip(captions, said, strict=True)] for spec in specs]
        positive = torch.tensor(true, dtype=torch.float32, device=images.device)
        ids = torch.cat([token_ids(tokenizer, captions, pace.device), plain_ids])
        logits = clip(input_ids=ids, pixel_values=2 * images - 1).logits_per_image
        own = torch.tensor([plain.index(spec.prompt(room=False, light=False)) for spec in specs]).to(images.device)
        found = F.cross_entropy(logits[:, batch_size:], own)
        return contrastive_loss(logits[:, :batch_size], positive) + found

    def note(seconds: float) -> None:
        nonlocal data
        data = data.with_new(views)
        with training.averaged():
            right = share_right(clip, tokenizer, valid, pace.device)
            write_clip(folder, clip, tokenizer)
        row = [training.step, f"{training.minutes:.1f}", f"{seconds:.2f}", data.shards, f"{right:.3f}"]
        training.add_to_curve(CURVE, [row])
        print(f"CLIP at step {training.step}: {right:.1%} of captions right on scenes held out", flush=True)

    training.run(loss, note)


def plain_captions() -> list[str]:
    """Of every scene, without room and light."""
    return sorted({spec.prompt(room=False, light=False) for spec in EVERY})


def framed_anew(images: Tensor) -> Tensor:
    """Pictures [B 3 H W], each enlarged, moved and mirrored by chance: of what is told, nothing depends on it."""
    batch = len(images)
    scale, mirror = 1 - ZOOM * torch.rand(batch) / (1 + ZOOM), torch.randint(2, (batch,)) * 2 - 1
    shift = SHIFT * (2 * torch.rand(batch, 2) - 1)
    matrices = torch.zeros(batch, 2, 3)
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False).to(images.device)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@torch.no_grad()
def seen(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Pictures as the judge will see them: every other one decoded, all with a little noise."""
    images = images.clone()
    images[::2] = vae.decode(vae.encode(2 * images[::2] - 1).latent_dist.sample()).sample / 2 + 0.5
    return images + NOISE * torch.rand(len(images), 1, 1, 1).to(images) * torch.randn_like(images)


@torch.no_grad()
def share_right(clip: CLIPModel, tokenizer: CLIPTokenizer, photographs: Photographs, device: str) -> float:
    """How often object, material and addition of a picture are all as its likeliest caption says."""
    captions = plain_captions()
    ids = token_ids(tokenizer, captions, device)
    said: list[str] = []
    for images in photographs.images.flatten(0, 1).split(64):
        likeliest = clip(input_ids=ids, pixel_values=2 * as_floats(images, device) - 1).logits_per_image.argmax(1)
        said += [captions[i] for i in likeliest.tolist()]
    numbers = photographs.specs.repeat_interleave(VIEWS).tolist()
    true = [EVERY[number].prompt(room=False, light=False) for number in numbers]
    return sum(a == b for a, b in zip(said, true, strict=True)) / len(true)
