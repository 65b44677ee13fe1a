"""Trains the studio prior on rendered photographs (data_scripts/studio_views.py), stage by stage.

    python data_scripts/train_studio_prior.py vae --steps 10000 --finish 2500
    python data_scripts/train_studio_prior.py unet --steps 20000 --finish 4000    # once the VAE is finished
    python data_scripts/train_studio_prior.py clip --steps 3000 --finish 1000     # the judge

Every stage goes to `--steps` at a constant rate, then its copy to the end of `--finish` with a rate that falls to zero.
With `--from-package` each begins as the packaged one; the U-Net's text encoder and the judge then know the words that
those know. Without a VAE of its own, the training takes the packaged one.

Without `--steps` it goes on until it is stopped, and `--finish` alone continues from where it stands. The same command
resumes. A curve (curve.csv) and a sheet say how far it is, on the edits' scenes, which no training saw.

FOLDER/prior is a diffusers folder, for `--pipeline.prior`; FOLDER/clip the judge. The VAE has a stride of 8: 128 pixels
are 16 × 16 latents, which cost the U-Net what toybox's do.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from long_training import NEVER, Pace
from studio_clip import train_clip
from studio_unet import train_unet
from studio_vae import train_vae

from pds_nerfstudio.priors.check import STUDIO

Stage = Literal["vae", "unet", "clip"]
RATES: dict[Stage, float] = {"vae": 1.5e-3, "unet": 6e-4, "clip": 6e-4}


@dataclass
class Settings(Pace):
    """Everything the training depends on."""

    stage: tyro.conf.Positional[Stage] = "vae"
    """What to train: unet and clip need a VAE."""
    folder: Path = Path("outputs/studio_prior")
    """Checkpoints, curves, sheets and the finished folders."""
    views: Path = Path("outputs/studio_views")
    """Shards of photographs; there may be more of them when the training looks again."""
    threads: int = 0
    """Of the processor; 0 for as many as torch takes by itself."""
    learning_rate: float = 0.0
    """0 for the stage's own: 0.0015 for the VAE, otherwise 0.0006."""
    from_package: bool = False
    """Begin as what the package has instead of from scratch."""
    vae_channels: tuple[int, ...] = (16, 32, 64, 64)
    """Of the VAE's levels; one level fewer halves the stride."""
    vae_latents: int = 8
    """Channels of its latents."""
    vae_pictures: int = 8
    """In a batch of the VAE."""
    clip_pictures: int = 96
    """In a batch of the judge."""
    singles: int = 16
    """Single views without a camera in a batch of the U-Net, and as many with one."""
    groups: int = 8
    """Groups of four views in a batch of the U-Net."""


def train(settings: Settings) -> None:
    match settings.stage:
        case "vae":
            train_vae(
                settings.folder,
                settings.views,
                settings.vae_channels,
                settings.vae_latents,
                settings.vae_pictures,
                settings,
                settings.from_package,
            )
        case "unet":
            train_unet(
                settings.folder, settings.views, settings.singles, settings.groups, settings, settings.from_package
            )
        case "clip":
            train_clip(settings.folder, settings.views, settings.clip_pictures, settings, settings.from_package)


def main(settings: Settings) -> None:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.from_package and settings.stage != "vae" and not (settings.folder / "vae").exists():
        shutil.copytree(STUDIO / "vae", settings.folder / "vae")
    settings = replace(settings, learning_rate=settings.learning_rate or RATES[settings.stage])
    if settings.steps != NEVER or not settings.finish:
        train(replace(settings, finish=0))
    if settings.finish:
        train(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
