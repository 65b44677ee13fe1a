"""Trains the toybox prior's second edition: one U-Net for single views, views with a camera, and four views at once.

    python data_scripts/toybox_views.py --folder outputs/toybox_views                          # data first
    python data_scripts/train_toybox_views.py --folder outputs/toybox_views                    # stop at any time
    python data_scripts/train_toybox_views.py --folder outputs/toybox_views --finish 1500      # then: rate to zero;
                                                               --install puts the result into the package
    python data_scripts/train_toybox_views.py --folder outputs/toybox_views --flow             # toybox's flow prior

It begins as the packaged U-Net. Where that takes no cameras yet (the first edition, train_toybox_prior.py), the last
layer of the camera's embedding starts at zero. Text encoder and VAE stay as they are. Batches are those of
view_training.py. The training can be stopped anywhere (long_training.py); `--finish` continues a copy of it with a rate
that falls to zero. A checkpoint every few minutes; the same command resumes.

Every `valid_every` steps a line of `curve.csv`: loss on scenes of their own, of the averaged weights.

With `--flow` the same U-Net learns a rectified flow (Liu et al. 2023) on the same latents, beginning as the packaged
prior, whose noise it predicts, or with `--start toybox-flow` as the packaged flow: x_σ = (1 − σ) x⁰ + σ ε, v = ε − x⁰,
σ uniform, told as 1000 σ.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from diffusers import UNet2DConditionModel
from long_training import LongTraining, Pace
from torch import Tensor
from toybox_networks import make_flow_scheduler
from toybox_views import load_views
from training_loop import WEIGHTS
from view_training import Process, Sampler, ViewData, note_errors, validate, with_cameras, write_unet

from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.folder import CAMERA_SETTINGS
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.toybox.spec import all_specs


@dataclass
class Settings(Pace):
    """Everything the training depends on."""

    folder: Path = Path("outputs/toybox_views")
    """Data, checkpoints, curve and the finished U-Net."""
    singles: int = 16
    """Single views without a camera in a batch, and as many with one."""
    groups: int = 8
    """Groups of four views in a batch."""
    install: bool = False
    """With `finish`: copy what comes of it into the package."""
    flow: bool = False
    """Train the flow prior, under `folder`/flow, in place of the second edition."""
    start: Literal["toybox", "toybox-flow"] = "toybox"
    """The packaged prior whose U-Net the training begins as."""


EVERY = list(all_specs())


def random_caption(number: int) -> str:
    """Of the scene of that number: one in ten empty, one in eight without the colour, every other without the floor."""
    empty, colour, floor = torch.rand(3).tolist()
    return "" if empty < 0.1 else EVERY[number].prompt(colour=colour > 0.125, floor=floor > 0.5)


def sampler_of(prior: StableDiffusionPrior, data: ViewData) -> Sampler:
    """Draws from toybox's shards, with captions as the prior's own text encoder reads them."""

    def embed(captions: list[str]) -> Tensor:
        return torch.stack([prior.embed(caption) for caption in captions]).float()

    return Sampler(data, random_caption, embed, prior.device)


def write_prior(unet: UNet2DConditionModel, folder: Path, is_flow: bool = False) -> None:
    """The toybox prior with this U-Net, in half precision."""
    others = ("unet", "recipe.json") if is_flow else ("unet",)  # a flow has a recipe of its own, in the package
    shutil.copytree(TOYBOX, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*others))
    write_unet(unet, folder)
    if is_flow:
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        make_flow_scheduler().save_pretrained(folder / "scheduler")


def install(folder: Path, is_flow: bool) -> None:
    """Copy what is finished into the package."""
    finished = folder / "finished"
    if is_flow:
        place = shutil.copytree(finished, WEIGHTS / "flow", dirs_exist_ok=True)
    else:
        for part in ("unet", "camera_proj"):
            shutil.copytree(finished / part, TOYBOX / part, dirs_exist_ok=True)
        place = shutil.copy(finished / CAMERA_SETTINGS, TOYBOX).parent
    print(f"installed {place}")


def main(settings: Settings) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    prior = load_prior(settings.start, settings.device)
    alphas = prior.schedule.alphas_cumprod.float().to(settings.device)
    process = Process.flow(settings.device) if settings.flow else Process.diffusion(alphas)
    folder = settings.folder / "flow" if settings.flow else settings.folder
    unet = with_cameras(prior.unet).to(settings.device)
    training = LongTraining("unet", folder, unet, settings)
    sampler = sampler_of(prior, load_views(settings.folder))
    valid = sampler_of(prior, load_views(settings.folder, "valid.pt"))

    def loss() -> Tensor:
        batch = sampler.draw(settings.singles, settings.groups)
        return (process.weights[batch.t] * batch.errors(unet, process)).mean()

    def note(seconds: float) -> None:
        sampler.data = load_views(settings.folder)  # there may be more by now
        with training.averaged():
            note_errors(training, seconds, sampler.data.shards, validate(unet, valid, process))
            write_prior(unet, folder / ("finished" if settings.finish else "prior"), settings.flow)

    training.run(loss, note)
    if settings.finish and settings.install:
        install(folder, settings.flow)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
