"""Trains a tiny encoder for the toybox prior, by distilling the encoder of its VAE.

    python data_scripts/train_tiny_encoder.py --out outputs/tiny_encoder            # leaves outputs/tiny_encoder/tiny
    python data_scripts/train_tiny_encoder.py --out outputs/tiny_encoder --install  # and puts it into the package

It is diffusers' AutoencoderTiny, whose decoder nobody uses and is therefore as small as can be. What an edit takes from
an encoder is its latents and, for a gradient on them, the gradient on the image. It learns both:

    loss = |E_tiny(I) − E(I)|² / var E  +  |J_tinyᵀ g − Jᵀ g|² / |Jᵀ g|²,      g random on the latents, smooth or white
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from toybox_data import Bank, World, trace_random_views
from training_loop import save_atomically, train

from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.tiny import TOYBOX_ENCODER
from pds_nerfstudio.toybox.spec import HATS, SHAPES


@dataclass
class TinySettings:
    """Everything the training depends on."""

    out: Path = Path("outputs/tiny_encoder")
    """Checkpoint and finished folder."""
    steps: int = 6500
    views: int = 12
    """Traced views of each shape, with and without hat."""
    channels: int = 16
    blocks: tuple[int, ...] = (1, 2, 3)
    """Residual blocks at each resolution, from the picture's to the latent's."""
    images_per_step: int = 8
    checkpoint_every: int = 250
    seed: int = 0
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    install: bool = False
    """Copy the finished encoder into the package."""


def make_tiny(settings: TinySettings) -> AutoencoderTiny:
    """Stride 4 and 4 latent channels, as the toybox VAE has them."""
    return AutoencoderTiny(
        encoder_block_out_channels=(settings.channels,) * len(settings.blocks),
        num_encoder_blocks=settings.blocks,
        decoder_block_out_channels=(4,) * len(settings.blocks),
        num_decoder_blocks=(1,) * len(settings.blocks),
        act_fn="silu",
    )


def small_bank(settings: TinySettings) -> Bank:
    """A few traced views of everything: an encoder sees no further than some pixels."""
    path = settings.out / "bank.pt"
    if not path.exists():
        parts = [
            trace_random_views(shape, hat, settings.views, settings.seed + i)
            for i, (shape, hat) in enumerate((shape, hat) for shape in SHAPES for hat in HATS)
        ]
        save_atomically({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, path)
    return Bank(**torch.load(path, weights_only=True))


def with_gradient(encode, images: Tensor, direction: Tensor, graph: bool) -> tuple[Tensor, Tensor]:
    """Latents of images, and the gradient on the images of their product with `direction`."""
    images = images.detach().requires_grad_()
    latents = encode(images)
    (gradient,) = torch.autograd.grad((latents * direction).sum(), images, create_graph=graph)
    return latents, gradient


def random_direction(count: int, side: int) -> Tensor:
    """Noise on latents, in blocks of 1 to 16: what an edit asks for is seldom white."""
    block = 2 ** int(torch.randint(5, ()))
    noise = torch.randn(count, 4, side // block, side // block)
    return nn.functional.interpolate(noise, scale_factor=block)


def relative(error: Tensor, reference: Tensor) -> Tensor:
    """Squared error as a share of the reference's square."""
    return error.square().sum() / reference.square().sum()


def main(settings: TinySettings) -> None:
    torch.manual_seed(settings.seed)
    prior, tiny = load_prior("toybox", settings.device), make_tiny(settings).to(settings.device)
    bank = small_bank(settings).to(settings.device)
    world = World(bank, settings.seed + 1, held_out=False)

    def compared(world: World, count: int, graph: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and gradient on the images by the VAE, and by the tiny encoder."""
        images = world.draw(count)[0]
        images = (images + 0.02 * torch.randn_like(images)).clamp(0, 1)  # a rendering under edit is not clean
        direction = random_direction(count, images.shape[-1] // 4).to(images)
        of_vae = with_gradient(prior.encode, images, direction, graph=False)
        return *of_vae, *with_gradient(lambda x: tiny.encode(2 * x - 1).latents, images, direction, graph)

    def loss() -> Tensor:
        latents, gradient, own, own_gradient = compared(world, settings.images_per_step, graph=True)
        latents = latents.detach()
        spread = latents - latents.mean((0, 2, 3), keepdim=True)
        return relative(own - latents, spread) + relative(own_gradient - gradient, gradient)

    train("tiny", settings, tiny, loss, settings.steps, 3e-3)
    tiny.requires_grad_(False).eval()
    held_out = World(bank, settings.seed + 2, held_out=True)
    parts = [compared(held_out, 8, graph=False) for _ in range(16)]
    latents, gradient, own, own_gradient = map(torch.cat, zip(*parts, strict=True))
    cosine = torch.cosine_similarity(gradient.flatten(1), own_gradient.flatten(1)).mean()
    error = (own - latents).square().mean().sqrt()
    print(f"held-out pairs: cosine of image gradients {cosine:.4f}, error of latents {error:.4f} of 1")
    tiny.half().save_pretrained(folder := settings.out / "tiny")
    config = json.loads((folder / "config.json").read_text())
    del config["block_out_channels"]  # diffusers adds it, and warns of it when it reads it
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if settings.install:
        shutil.copytree(folder, TOYBOX_ENCODER, dirs_exist_ok=True)
        print(f"installed {TOYBOX_ENCODER}")


if __name__ == "__main__":
    main(tyro.cli(TinySettings))
