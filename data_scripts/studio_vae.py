"""The VAE of the studio prior: what it is made of, its training and its measure."""

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from long_training import LongTraining, Pace
from studio_photographs import IMAGE_SIZE, Photographs, as_floats
from torch import Tensor
from torchvision.utils import save_image

from pds_nerfstudio.priors.check import STUDIO

KL_WEIGHT = 2e-5
CURVE = ("step", "minutes", "seconds_per_step", "shards", "psnr", "latents_std")


def make_vae(channels: tuple[int, ...], latents: int) -> AutoencoderKL:
    """With so many channels of latents; its stride is 2 to the power of one less than there are numbers of channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latents,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def decoded(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """What the VAE makes of images [B 3 H W] in [0, 1] by way of the posterior's mean; in [0, 1]."""
    return (vae.decode(vae.encode(2 * images - 1).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def psnr_of(vae: AutoencoderKL, images: Tensor) -> tuple[float, Tensor]:
    """Mean PSNR in dB over pictures, bytes [N 3 H W], and what became of them."""
    device = next(vae.parameters()).device
    results = torch.cat([decoded(vae, as_floats(part, device)).cpu() for part in images.split(16)])
    errors = (results - images / 255).square().mean((1, 2, 3))
    return float(-10 * errors.log10().mean()), results


def train_vae(
    folder: Path,
    views: Path,
    channels: tuple[int, ...],
    latents: int,
    batch_size: int,
    pace: Pace,
    from_package: bool,
) -> None:
    """By absolute and squared error with a light KL term, as toybox's; FOLDER/vae has the average of the weights."""
    torch.manual_seed(pace.seed)
    vae = make_vae(channels, latents).to(pace.device)
    if from_package:
        vae.load_state_dict(AutoencoderKL.from_pretrained(STUDIO / "vae").state_dict())
    training = LongTraining("vae", folder / "vae_training", vae, pace)
    data = Photographs.load(views)
    valid = Photographs.load(views, "valid.pt").images.flatten(0, 1)

    def loss() -> Tensor:
        pictures = data.images.flatten(0, 1)
        images = 2 * as_floats(pictures[torch.randint(len(pictures), (batch_size,))], pace.device) - 1
        with torch.autocast(torch.device(pace.device).type, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.sample()).sample
        error = output.float() - images
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return (error.abs() + 2 * error.square()).mean() + KL_WEIGHT * kl

    def note(seconds: float) -> None:
        nonlocal data
        data = data.with_new(views)
        with training.averaged():
            value, results = psnr_of(vae, valid)
            std = latents_std(vae, valid)
            vae.register_to_config(scaling_factor=1 / std)
            vae.save_pretrained(folder / "vae")
        row = [training.step, f"{training.minutes:.1f}", f"{seconds:.2f}", data.shards, f"{value:.2f}", f"{std:.3f}"]
        training.add_to_curve(CURVE, [row])
        print(f"VAE at step {training.step}: {value:.2f} dB on scenes held out", flush=True)
        some = torch.arange(0, len(valid), max(1, math.ceil(len(valid) / 16)))
        save_image(torch.cat([valid[some] / 255, results[some]]), folder / "vae.png", nrow=len(some))

    training.run(loss, note)


@torch.no_grad()
def latents_std(vae: AutoencoderKL, images: Tensor) -> float:
    """Standard deviation of the latents of pictures, bytes [N 3 H W]."""
    device = next(vae.parameters()).device
    latents = [vae.encode(2 * as_floats(part, device) - 1).latent_dist.mode() for part in images.split(16)]
    return float(torch.cat(latents).std())
