"""Toybox edits in two dimensions: the same objectives on bare latents of the held-out photographs.

What an objective does where there is no scene: every photograph may go its own way, nothing makes views agree.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pds_nerfstudio.evaluation.metrics import Images
from pds_nerfstudio.evaluation.trial import SIDES, Comparison, TrialSettings, against_truth
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.pipelines.distillation import ADAPTERS
from pds_nerfstudio.pipelines.image_edit import edit_latents
from pds_nerfstudio.pipelines.settings import change, read
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior, load_prior
from pds_nerfstudio.toybox.spec import ToyEdit


def held_out(scene: Path) -> list[str]:
    """Names of the photographs that are edited."""
    return sorted(path.name for path in (scene / SIDES[0] / "images").glob("test_*.png"))


def through_vae(prior: StableDiffusionPrior, images: Images) -> Images:
    """What the VAE keeps of pictures: an edit of nothing."""
    with torch.no_grad():
        return prior.decode(prior.encode(images))


def run(
    method: str | None, edit: ToyEdit, scene: Path, settings: TrialSettings, seed: int, changes: Mapping
) -> Comparison:
    """Edit the held-out photographs of a scene by a method's objective, and compare them with the truth.

    The source is what the VAE makes of the photographs, so that its own error counts for nothing.

    Args:
        method: as `ns-train` names it; None leaves the photographs as they are.
        changes: its settings by the names of `ns-train`'s flags, of which only those of the objective, the adapters'
            rank, warm-up and rate mean anything here.
    """
    names, prior = held_out(scene), load_prior("toybox", "cuda" if torch.cuda.is_available() else "cpu")
    photographs = read_images([scene / SIDES[0] / "images" / name for name in names])
    before = through_vae(prior, photographs)
    after = before
    if method is not None:
        config: Any = copy.deepcopy(METHODS[method].config)
        config.pipeline.objective = settings.objective(type(config.pipeline.objective))
        for name, value in changes.items():
            change(config, name, value)
        prompts = edit.source_prompt, edit.target_prompt
        after = edit_by(config, prior, photographs, prompts, settings.edit_steps, seed)
    return against_truth(edit, scene, names, before.cpu(), after.cpu())


def edit_by(
    config: Any, prior: StableDiffusionPrior, images: Images, prompts: tuple[str, str], steps: int, seed: int
) -> Images:
    """Pictures after an edit by the objective of a method's configuration, with its adapters' settings."""
    with torch.no_grad():
        x0 = prior.encode(images)
    edited = edit_latents(
        prior,
        config.pipeline.objective,
        x0,
        *prompts,
        steps,
        seed,
        adapter_rank=read(config.pipeline, "adapter_rank"),
        adapter_warmup=read(config.pipeline, "adapter_warmup"),
        adapter_rate=config.optimizers[ADAPTERS]["optimizer"].lr if ADAPTERS in config.optimizers else None,
    )
    return prior.decode(edited)


def ceiling(edit: ToyEdit, scene: Path) -> Comparison:
    """The edited scene's own photographs, through the VAE."""
    names, prior = held_out(scene), load_prior("toybox", "cpu")
    source, target = (
        through_vae(prior, read_images([scene / side / "images" / name for name in names])) for side in SIDES
    )
    return against_truth(edit, scene, names, source, target)
