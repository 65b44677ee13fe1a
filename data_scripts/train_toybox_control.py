"""Trains the toybox prior's depth ControlNet (Zhang et al. 2023) from exact depth.

    python data_scripts/train_toybox_control.py --out outputs/toybox_control
    python data_scripts/train_toybox_control.py --out outputs/toybox_control --install     # into the package when done

The prior stays as it is; the ControlNet begins as a copy of its U-Net's first half. Random scenes from random orbit
cameras, resumable. At the end: denoising loss with and without depth, by timestep, and a sheet of samples from the same
noise and prompt under different depths.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import ControlNetModel
from rich.progress import track
from torch import Tensor
from torchvision.utils import save_image
from toybox_data import IMAGE_SIZE, random_cameras
from toybox_networks import halve
from training_loop import WEIGHTS, Run, save_atomically, train

from pds_nerfstudio.images import depth_picture
from pds_nerfstudio.objectives import Query
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.toybox.render import render
from pds_nerfstudio.toybox.spec import SceneSpec, all_specs, is_held_out


@dataclass
class ControlSettings(Run):
    """Everything the training depends on."""

    out: Path = Path("outputs/toybox_control")
    """Pictures, checkpoint, sheet and the finished folder."""
    views: int = 4000
    """Pictures with depth to train on."""
    steps: int = 1500
    batch_size: int = 16
    checkpoint_every: int = 100


def random_views(settings: ControlSettings, count: int, seed: int) -> dict[str, Tensor]:
    """Pictures, depth pictures and the number of each one's spec, among the specs the prior was trained on."""
    every = list(all_specs())
    trained = [i for i, spec in enumerate(every) if not is_held_out(spec)]
    generator = torch.Generator().manual_seed(seed)

    chosen = [trained[i] for i in torch.randint(len(trained), (count,), generator=generator).tolist()]
    cameras = random_cameras(count, generator)
    images, pictures = [], []
    for i, camera in zip(track(chosen, "rendering"), cameras, strict=True):
        view = render(every[i], camera[None], IMAGE_SIZE, IMAGE_SIZE)
        depth = view.depth[:, None]
        images.append((view.image.movedim(-1, 1) * 255).round().byte())
        pictures.append((depth_picture(depth, (depth > 0).to(depth))[:, :1] * 255).round().byte())
    return {"image": torch.cat(images), "picture": torch.cat(pictures), "spec": torch.tensor(chosen)}


class Data:
    """Latents, depth pictures and specs; kept on disk, so that resuming renders nothing again."""

    def __init__(self, settings: ControlSettings, prior: StableDiffusionPrior, name: str, count: int, seed: int):
        path = settings.out / f"{name}.pt"
        if not path.exists():
            save_atomically(random_views(settings, count, seed), path)
        saved = torch.load(path, weights_only=True)
        every = list(all_specs())
        self.specs: list[SceneSpec] = [every[i] for i in saved["spec"].tolist()]
        self.pictures = saved["picture"]
        with torch.no_grad():
            parts = [prior.encode(part.to(settings.device) / 255) for part in saved["image"].split(100)]
        self.latents = torch.cat(parts)

    def draw(self, count: int) -> tuple[Tensor, Tensor, list[SceneSpec]]:
        """Latents, depth pictures [count 3 H W] in [0, 1], specs."""
        index = torch.randint(len(self.latents), (count,))
        pictures = (self.pictures[index].float() / 255).expand(-1, 3, -1, -1).to(self.latents)
        return self.latents[index.to(self.latents.device)], pictures, [self.specs[i] for i in index.tolist()]


def make_controlnet(prior: StableDiffusionPrior) -> ControlNetModel:
    """Shrinks its picture as often as the VAE does; adds nothing before it has learned."""
    widths = (16, 32, 64)
    assert 2 ** (len(widths) - 1) == prior.latent_stride
    # It is not told the cameras: depth says where it looks.
    stock = load_prior("toybox", prior.device, purpose="editing").unet
    network = ControlNetModel.from_unet(stock, conditioning_embedding_out_channels=widths)
    return network.float().to(prior.device).requires_grad_(True).train()


def train_control(settings: ControlSettings, prior: StableDiffusionPrior, data: Data) -> ControlNetModel:
    """The prior's own denoising loss, with the weights that the prior was trained with; one caption in ten empty."""
    control = make_controlnet(prior)
    alphas = prior.schedule.alphas_cumprod.to(prior.device).float()
    weights = (5 * (1 - alphas) / alphas).clamp_max(1)

    def loss() -> Tensor:
        x0, pictures, specs = data.draw(settings.batch_size)
        noise, t = torch.randn_like(x0), torch.randint(len(alphas), (len(x0),), device=x0.device)
        coin = torch.rand(3, len(specs)).tolist()
        prompts = [
            "" if empty < 0.1 else spec.prompt(colour=colour > 0.125, floor=floor > 0.5)
            for spec, empty, colour, floor in zip(specs, *coin, strict=True)
        ]
        texts = torch.stack([prior.embed(prompt) for prompt in prompts])
        inputs = prior.schedule.add_noise(x0, t, noise), t, texts
        down, mid = control(*inputs, controlnet_cond=pictures, return_dict=False)
        output = prior.unet(
            *inputs,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            **prior.without_cameras(len(x0)),
        ).sample
        return (weights[t] * (output - noise).square().mean((1, 2, 3))).mean()

    train("control", settings, control, loss, settings.steps, 1e-3)
    return control.requires_grad_(False).eval()


@torch.no_grad()
def report(settings: ControlSettings, prior: StableDiffusionPrior, data: Data) -> None:
    """What depth is worth to the prior, and what it makes of it."""
    torch.manual_seed(0)
    for low in (0, 250, 500, 750):
        losses = []
        for _ in range(4):
            x0, pictures, specs = data.draw(32)
            t, eps = torch.randint(low, low + 250, (32,), device=x0.device), torch.randn_like(x0)
            x_t = prior.schedule.add_noise(x0, t, eps)
            queries = [
                Query(x_t[i : i + 1], t[i : i + 1], spec.prompt(), control=picture)
                for i, spec in enumerate(specs)
                for picture in (pictures[i : i + 1],)
            ]
            plain = [Query(q.noisy_latents, q.t, q.prompt) for q in queries]
            losses.append(
                [float((torch.cat(prior.predict_noise(some)) - eps).square().mean()) for some in (plain, queries)]
            )
        without, under = torch.tensor(losses).mean(0).tolist()
        print(f"t in [{low}, {low + 250}): denoising loss {without:.4f} without depth, {under:.4f} under it")
    _, pictures, specs = data.draw(16)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, *data.latents.shape[1:], generator=generator).to(prior.device)
    prior.scheduler.set_timesteps(30, device=prior.device)
    for t in prior.scheduler.timesteps:
        times = t.expand(1)
        answers = prior.predict_noise(
            [Query(x[i : i + 1], times, specs[i].prompt(), 3.0, control=pictures[i : i + 1]) for i in range(16)]
        )
        x = prior.scheduler.step(torch.cat(answers), t, x).prev_sample
    save_image(torch.cat([pictures.cpu(), prior.decode(x).cpu()]), settings.out / "samples.png", nrow=16)


def main(settings: ControlSettings) -> None:
    torch.manual_seed(settings.seed)
    prior = load_prior("toybox", settings.device, torch.float32)
    control = train_control(settings, prior, Data(settings, prior, "views", settings.views, settings.seed))
    control.save_pretrained(settings.out / "control", safe_serialization=True)
    halve(settings.out / "control")
    prior.controlnet = control
    report(settings, prior, Data(settings, prior, "test_views", 200, settings.seed + 1))
    if settings.install:
        shutil.copytree(settings.out / "control", WEIGHTS / "control", dirs_exist_ok=True)
        print(f"installed {WEIGHTS / 'control'}")


if __name__ == "__main__":
    main(tyro.cli(ControlSettings, description=__doc__))
