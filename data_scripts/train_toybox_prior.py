"""Trains the toybox prior and the toybox CLIP from scratch, on procedural scenes alone.

    python data_scripts/train_toybox_prior.py --out outputs/toybox_prior
    python data_scripts/train_toybox_prior.py --out outputs/toybox_prior --install   # into the package when done

In turn, each resumable from its last checkpoint: a bank of traced geometry, the VAE, the CLIP, the U-Net with its text
encoder; then the diffusers and transformers folders and a sample sheet. One to two hours on two CPU cores, minutes on a
GPU. The colour and shape pairs of `toybox.spec.is_held_out` are never shown to the U-Net.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from rich.progress import track
from torch import Tensor, nn
from torchvision.utils import save_image
from toybox_data import Bank, World, build_bank
from toybox_networks import (
    contrastive_loss,
    make_clip,
    make_scheduler,
    make_unet,
    make_vae,
    text_config,
    token_ids,
    write_clip,
    write_prior,
)
from training_loop import WEIGHTS, Run, save_atomically, train
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from pds_nerfstudio.priors.folder import CAMERA_SETTINGS
from pds_nerfstudio.toybox.spec import SHAPES, SceneSpec, all_specs, held_out_captions
from pds_nerfstudio.toybox.tokenizer import build_tokenizer

Stage = Literal["clip", "unet"]


@dataclass
class Settings(Run):
    """Everything the training depends on."""

    out: Path = Path("outputs/toybox_prior")
    """Checkpoints, sheets and the finished folders."""
    stages: tuple[Stage, ...] = ("clip", "unet")
    """What to train once the geometry is traced and the VAE trained."""
    vae_steps: int = 2400
    clip_steps: int = 900
    unet_steps: int = 2750
    batch_size: int = 64
    unet_channels: tuple[int, ...] = (64, 96, 128)
    text_width: int = 96
    num_latents: int = 24_000
    """Coloured images whose latents the U-Net is trained on."""


def train_vae(settings: Settings, bank: Bank) -> AutoencoderKL:
    """Reconstruction by L1 and squared error with a light KL term; the object, a tenth of the picture, counts more."""
    vae = make_vae().to(settings.device)
    world = World(bank, settings.seed + 1, held_out=False)

    def loss() -> Tensor:
        images, _, share = world.draw(32)
        images = 2 * images - 1
        with torch.autocast(settings.device, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.sample()).sample
        error = output.float() - images
        error = (1 + 6 * share) * (error.abs() + 2 * error.square())
        return error.mean() + 2e-5 * posterior.kl().float().mean() / 1024

    train("vae", settings, vae, loss, settings.vae_steps, 2e-3)
    vae.requires_grad_(False).eval()
    with torch.no_grad():
        probe = 2 * world.draw(256)[0] - 1
        vae.register_to_config(scaling_factor=float(1 / vae.encode(probe).latent_dist.mean.std()))
        held_out = World(bank, settings.seed + 2, held_out=True).draw(64)[0]
        output = (vae.decode(vae.encode(2 * held_out - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    psnr = -10 * (output - held_out).square().mean((1, 2, 3)).log10().mean()
    print(f"VAE: {psnr:.2f} dB on held-out pairs, scaling factor {vae.config.scaling_factor:.4f}")
    save_image(torch.cat([held_out[:16], output[:16]]), settings.out / "vae.png", nrow=16)
    return vae


def train_clip(settings: Settings, bank: Bank, tokenizer: CLIPTokenizer, vae: AutoencoderKL) -> CLIPModel:
    """Contrastive, with every caption of the batch that is true of an image as its positive.

    Half of the images come out of the VAE, some with noise, because the judge will see generated ones.
    """
    clip = make_clip(tokenizer).to(settings.device)
    worlds = [World(bank, settings.seed + 3, held_out=False), World(bank, settings.seed + 4, held_out=True)]

    def loss() -> Tensor:
        drawn = [world.draw(count) for world, count in zip(worlds, (72, 24), strict=True)]
        images = torch.cat([images for images, _, _ in drawn])
        specs = [spec for _, several, _ in drawn for spec in several]
        with torch.no_grad():
            images[::2] = vae.decode(vae.encode(2 * images[::2] - 1).latent_dist.sample()).sample / 2 + 0.5
            images = images + 0.04 * torch.rand(len(images), 1, 1, 1).to(images) * torch.randn_like(images)
        silent = [(worlds[0].integer(4) == 0, worlds[0].integer(2) == 0) for _ in specs]
        captions = [spec.prompt(not c, not f) for spec, (c, f) in zip(specs, silent, strict=True)]
        true = [
            [spec.prompt(not c, not f) == caption for caption, (c, f) in zip(captions, silent, strict=True)]
            for spec in specs
        ]
        positive = torch.tensor(true, dtype=torch.float32, device=images.device)
        logits = clip(
            input_ids=token_ids(tokenizer, captions, settings.device), pixel_values=2 * images - 1
        ).logits_per_image
        return contrastive_loss(logits, positive)

    train("clip", settings, clip, loss, settings.clip_steps, 1e-3)
    return clip.requires_grad_(False).eval()


def encode_latents(settings: Settings, bank: Bank, vae: AutoencoderKL) -> tuple[Tensor, list[SceneSpec]]:
    """Latents of random trained scenes, kept on disk: resuming does not encode them again."""
    path = settings.out / "latents.pt"
    every = list(all_specs())
    if path.exists():
        saved = torch.load(path, weights_only=True)
        return saved["latents"].to(settings.device), [every[i] for i in saved["specs"].tolist()]
    world = World(bank, settings.seed + 5, held_out=False)
    latents, specs = [], []
    with torch.no_grad():
        for _ in track(range(settings.num_latents // 100), "latents"):
            images, some, _ = world.draw(100)
            latents.append(vae.encode(2 * images - 1).latent_dist.mean * vae.config.scaling_factor)
            specs += some
    save_atomically(
        {"latents": torch.cat(latents).cpu(), "specs": torch.tensor([every.index(spec) for spec in specs])}, path
    )
    return torch.cat(latents), specs


def train_unet(
    settings: Settings, bank: Bank, tokenizer: CLIPTokenizer, vae: AutoencoderKL
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Noise prediction with SNR weights capped at 5 (Hang et al. 2023), one caption in ten empty."""
    torch.manual_seed(settings.seed)
    unet = make_unet(settings.unet_channels, settings.text_width).to(settings.device)
    text_encoder = CLIPTextModel(text_config(tokenizer, settings.text_width, 3)).to(settings.device)
    modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    scheduler = make_scheduler()
    alphas = scheduler.alphas_cumprod.to(settings.device)
    weights = (5 * (1 - alphas) / alphas).clamp_max(1)
    captions = World(bank, settings.seed + 6, held_out=False)
    checkpoint = settings.out / "unet.pt"
    finished = checkpoint.exists() and torch.load(checkpoint, "cpu", weights_only=True)["step"]
    latents, specs = encode_latents(settings, bank, vae) if finished < settings.unet_steps else (torch.zeros(0), [])
    ema = EMAModel(list(modules.parameters()), decay=0.9985, use_ema_warmup=True, power=0.75)

    def loss() -> Tensor:
        index = torch.randint(len(latents), (settings.batch_size,))
        x0 = latents[index.to(latents.device)]
        noise = torch.randn_like(x0)
        t = torch.randint(1000, (len(x0),), device=x0.device)
        prompts = ["" if captions.integer(10) == 0 else captions.caption(specs[i]) for i in index.tolist()]
        with torch.autocast(settings.device, torch.bfloat16):
            condition = text_encoder(token_ids(tokenizer, prompts, settings.device))[0]
            predicted = unet(scheduler.add_noise(x0, noise, t), t, condition).sample
        return (weights[t] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()

    def save_samples(step: int) -> None:
        if step % 500 and step != settings.unet_steps:
            return
        ema.store(modules.parameters())
        ema.copy_to(modules.parameters())
        write_prior(settings.out, tokenizer, vae, unet, text_encoder)
        sample_sheet(settings, settings.out / f"samples_{step:06d}.png")
        ema.restore(modules.parameters())

    train("unet", settings, modules, loss, settings.unet_steps, 1.2e-3, ema, save_samples)
    ema.copy_to(modules.parameters())
    return unet.eval(), text_encoder.eval()


def sample_sheet(settings: Settings, path: Path) -> None:
    """A sheet of DDIM samples: every shape in a trained and in a held-out colour, with and without a hat."""
    pipe = StableDiffusionPipeline.from_pretrained(settings.out / "prior", safety_checker=None).to(settings.device)
    pipe.set_progress_bar_config(disable=True)
    prompts = [SceneSpec(s, c).prompt(floor=False) for s in SHAPES for c in ("red", "blue", "yellow")]
    prompts += [caption for _, caption in held_out_captions()[4:200:11]]
    generator = torch.Generator().manual_seed(0)
    images = pipe(prompts, num_inference_steps=25, guidance_scale=4.0, generator=generator, output_type="pt").images
    save_image(nn.functional.interpolate(images, scale_factor=2), path, nrow=12)


def main(settings: Settings) -> None:
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer(settings.out / "tokenizer")
    bank = build_bank(settings.out, settings.seed).to(settings.device)
    vae = train_vae(settings, bank)
    if "clip" in settings.stages:
        write_clip(settings.out, train_clip(settings, bank, tokenizer, vae), tokenizer)
    if "unet" in settings.stages:
        unet, text_encoder = train_unet(settings, bank, tokenizer, vae)
        write_prior(settings.out, tokenizer, vae, unet, text_encoder)
        sample_sheet(settings, settings.out / "samples.png")
    if settings.install:
        for name in ("prior", "clip"):
            shutil.copytree(settings.out / name, WEIGHTS / name, dirs_exist_ok=True)
            print(f"installed {WEIGHTS / name}")
        # This is the first edition, which takes no cameras; train_toybox_views.py makes the second of it.
        shutil.rmtree(WEIGHTS / "prior" / "camera_proj", ignore_errors=True)
        (WEIGHTS / "prior" / CAMERA_SETTINGS).unlink(missing_ok=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
