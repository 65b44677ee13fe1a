"""Cheaper encoders: their cost at Stable Diffusion's size, and how near their gradients on an image are to the VAE's.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --encoder FOLDER      # and a tiny one, of data_scripts/train_tiny_encoder.py

The costs are counted on torch's meta device, at 512x512: Stable Diffusion's VAE, and AutoencoderTiny at diffusers'
default size, which is that of the published TAESD. The gradients are those of the toybox prior's encoders, on views of
toybox scenes: of a random direction on the latents, and of PDS itself at the prior's own noise predictions.
"""

from collections.abc import Callable

import torch
import tyro
from counters import flops
from random_prior import random_prior
from torch import Tensor

from pds_nerfstudio.images import to_channels_first
from pds_nerfstudio.objectives import PDS, Edit
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.scenes.memory import kept_for_backward
from pds_nerfstudio.toybox.dataset import capture_cameras
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import find_edit

EDITS = ("can-to-cone", "red-to-blue", "raise-arms")


def cost(encode: Callable[[Tensor], Tensor], parameters: list[Tensor], dtype: torch.dtype) -> str:
    """TFLOP forward and backward and GiB kept, at 512x512."""
    image = torch.zeros(1, 3, 512, 512, device="meta", dtype=dtype, requires_grad=True)
    with kept_for_backward(parameters) as kept, flops() as forward:
        latents = encode(image)
    with flops() as backward:
        latents.sum().backward()
    return " | ".join(
        f"{value:.3f}"
        for value in (forward.get_total_flops() / 1e12, backward.get_total_flops() / 1e12, kept.bytes / 2**30)
    )


def on_image(prior: StableDiffusionPrior, image: Tensor, direction: Tensor) -> Tensor:
    """The gradient on an image of its latents' product with a direction."""
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((prior.encode(image) * direction).sum(), image)
    return gradient


def cosines(prior: StableDiffusionPrior, other: StableDiffusionPrior, views: int) -> tuple[float, float]:
    """Mean cosine between the two encoders' image gradients: for random directions, and for PDS's gradient on each."""
    generator, random, pds = torch.Generator().manual_seed(0), [], []
    for name in EDITS:
        edit = find_edit(name)
        for image in to_channels_first(render(edit.source, capture_cameras(views, 1), 64, 64).image).split(1):
            eps, eps_s, direction, moved = torch.randn(4, 1, 4, 16, 16, generator=generator)
            t, s = PDS().sample_timesteps(prior.schedule, 1, generator)
            random.append(
                torch.cosine_similarity(*(on_image(p, image, direction).flatten() for p in (prior, other)), 0)
            )
            gradients = []
            for encoder in (prior, other):
                x0 = encoder.encode(image).detach()
                prompts = edit.source_prompt, edit.target_prompt
                step = Edit(x0 + 0.1 * moved, x0, *prompts, t, s, eps, eps_s)
                gradients.append(on_image(encoder, image, PDS(guidance_scale=15.0).gradient(prior, step)).flatten())
            pds.append(torch.cosine_similarity(*gradients, 0))
    return float(torch.stack(random).double().mean()), float(torch.stack(pds).double().mean())


def main(encoder: str | None = None, views: int = 8) -> None:
    """Print both tables."""
    from diffusers import AutoencoderTiny

    print("| encoder at 512x512 | TFLOP forward | TFLOP backward | GiB kept |\n|---|---:|---:|---:|")
    for dtype, label in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        large = random_prior("sd15", "meta", dtype, vae_dtype=dtype)
        print(f"| VAE, {label} | {cost(large.encode, list(large.vae.parameters()), dtype)} |")
        with torch.device("meta"):
            tiny = torch.nn.Module.to(AutoencoderTiny().requires_grad_(False).eval(), dtype)
        print(f"| AutoencoderTiny, {label} | {cost(tiny.encoder, list(tiny.parameters()), dtype)} |")
    print("\n| toybox encoder | 1 − cosine, random directions | 1 − cosine, PDS |\n|---|---:|---:|")
    plain = load_prior("toybox", "cpu")
    others = {"VAE, bf16": load_prior("toybox", "cpu", vae_dtype=torch.bfloat16)}
    if encoder is not None:
        others["tiny"] = load_prior("toybox", "cpu", encoder=encoder)
    for label, other in others.items():
        print("| {} | {:.1e} | {:.1e} |".format(label, *(1 - cosine for cosine in cosines(plain, other, views))))


if __name__ == "__main__":
    tyro.cli(main)
