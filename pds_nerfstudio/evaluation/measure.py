"""The numbers of an edit, each with its formula: does it show what was asked, and is the rest what it was?"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nerfstudio.models.base_model import Model

from pds_nerfstudio.deferred_lpips import lpips_weights_on_disk
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import Pair
from pds_nerfstudio.evaluation.metrics import (
    STUDIO_CLIP,
    TOYBOX_CLIP,
    ClipScorer,
    directional_consistency,
    directional_similarity,
    psnr,
    ssim,
)
from pds_nerfstudio.perceptual import Perceptual
from pds_nerfstudio.pictures import Image3, Images
from pds_nerfstudio.priors.families import WORLDS
from pds_nerfstudio.scenes.paths import camera_path
from pds_nerfstudio.scenes.shots import Shot, shoot, view_camera

Distance = Callable[[Image3, Image3], float]

CLIPS = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch32")
"""Looked for in the local Hugging Face cache, in this order."""
OWN_CLIPS = {"toybox": TOYBOX_CLIP, "studio": STUDIO_CLIP}
"""Those in this package, by their worlds."""


@dataclass(frozen=True)
class Metric:
    """What a number is."""

    name: str
    formula: str
    """b: before, a: after, of the same camera; C: CLIP as unit vectors; d: the perceptual distance."""
    better: str
    """ "higher" or "lower", or "" where neither is."""
    over: str = "held-out views"
    says: str = ""
    """What more of it means, where that is not simply a better edit."""

    @property
    def reading(self) -> str:
        """How its values are read, in a few words; empty where neither end is better."""
        return self.says or (f"{self.better} is better" if self.better else "")


KEPT = "higher: more of the scene has stayed"
METRICS: dict[str, Metric] = {
    "clip_score": Metric("CLIP score", "mean of cos(C(a), C(target prompt))", "higher"),
    "clip_score_before": Metric("CLIP score before", "mean of cos(C(b), C(target prompt))", ""),
    "directional_similarity": Metric(
        "directional similarity",
        "mean of cos(C(a) − C(b), C(target prompt) − C(source prompt)); 0 for a view where either difference is 0",
        "higher",
    ),
    "directional_consistency": Metric(
        "directional consistency",
        "mean of cos(C(aᵢ) − C(bᵢ), C(aᵢ₊₁) − C(bᵢ₊₁)); 0 for a pair where either difference is 0",
        "higher",
        "neighbouring frames of the interpolated path",
    ),
    "psnr": Metric(
        "PSNR to the source", "mean of 10·log₁₀(1 / mean((a − b)²)) in dB; inf where a = b", "higher", says=KEPT
    ),
    "ssim": Metric("SSIM to the source", "mean of SSIM(a, b), 11-pixel Gaussian window", "higher", says=KEPT),
    "distance": Metric(
        "distance to the source", "mean of d(a, b)", "lower", says="lower: more of the scene has stayed"
    ),
    "a_distance": Metric(
        "distance of neighbours",
        "mean of d(aᵢ, aᵢ₊₁) (A-LPIPS)",
        "lower",
        "neighbouring frames of the interpolated path",
        "lower: neighbouring views agree more",
    ),
    "a_distance_before": Metric(
        "distance of neighbours before", "mean of d(bᵢ, bᵢ₊₁)", "", "neighbouring frames of the interpolated path"
    ),
}


@dataclass(frozen=True, eq=False)
class Judges:
    """The networks that the numbers depend on, and what they are called; None where one is not on this machine."""

    clip: ClipScorer | None
    clip_name: str
    distance: Distance | None
    distance_name: str


@dataclass(frozen=True, eq=False)
class Measured:
    """One edit's numbers and the pictures that they are about."""

    values: dict[str, list[float]]
    """Metric -> one number per view or pair of frames; a metric that could not be measured is missing."""
    before: list[Shot]
    after: list[Shot]

    def mean(self, name: str) -> float | None:
        """The mean over views, infinite if one is; None if it was not measured."""
        values = self.values.get(name)
        return math.fsum(values) / len(values) if values else None


def measure(pair: Pair, judges: Judges, prompts: tuple[str, str], frames: int, short_side: int | None) -> Measured:
    """Every metric that the judges and prompts allow.

    Args:
        prompts: source and target; what needs one that is empty is left out.
        frames: frames of the interpolated path, on which neighbours are compared.
        short_side: of the renderings, in pixels, where photographs are not smaller.
    """
    cameras = [view_camera(pair.held_out, i, short_side) for i in range(len(pair.held_out))]
    first = view_camera(pair.training, 0, short_side)
    path = camera_path(pair.training, "interpolated", frames, int(first.height), int(first.width))
    steps = [path[i : i + 1] for i in range(len(path))]
    before, after = _shots(pair.before, cameras), _shots(pair.after, cameras)
    pairs = list(zip([shot.image for shot in after], [shot.image for shot in before], strict=True))
    values = {
        "psnr": [float(psnr(a[None], b[None])) for a, b in pairs],
        "ssim": [float(ssim(a[None], b[None])) for a, b in pairs],
    }
    moving_before, moving_after = (
        torch.stack([shot.image for shot in _shots(model, steps)]) for model in (pair.before, pair.after)
    )
    if judges.distance is not None:
        d = judges.distance
        values["distance"] = [d(a, b) for a, b in pairs]
        values["a_distance"] = [d(x, y) for x, y in itertools.pairwise(moving_after)]
        values["a_distance_before"] = [d(x, y) for x, y in itertools.pairwise(moving_before)]
    if judges.clip is not None:
        clip, (src_prompt, tgt_prompt) = judges.clip, prompts
        if tgt_prompt:
            values["clip_score"] = [float(clip.similarity(a[None], [tgt_prompt])) for a, _ in pairs]
            values["clip_score_before"] = [float(clip.similarity(b[None], [tgt_prompt])) for _, b in pairs]
        if src_prompt and tgt_prompt:
            values["directional_similarity"] = [
                float(directional_similarity(clip, b[None], a[None], src_prompt, tgt_prompt)) for a, b in pairs
            ]
        values["directional_consistency"] = directional_consistency(clip, moving_before, moving_after).tolist()
    return Measured(values, before, after)


def load_judges(clip: str, priors: Sequence[str]) -> Judges:
    """CLIP and the perceptual distance, from what lies on this machine; nothing is downloaded.

    Args:
        clip: "auto", "toybox", "studio", a folder in transformers' layout or a hub id in the local cache. auto takes
            toybox's or studio's CLIP where every prior is of that world, else the first of `CLIPS` that is there.
        priors: of the edits; where LPIPS' weights are missing, the VAE of the first that is on this machine stands in.

    Raises:
        UserError: the CLIP that was named cannot be loaded.
    """
    distance, distance_name = _distance(priors)
    name = clip
    if clip == "auto":
        worlds = {WORLDS.get(prior) for prior in priors}
        (world,) = worlds if len(worlds) == 1 else (None,)
        name = world or next(filter(_in_cache, CLIPS), "")
    if not name:
        return Judges(None, f"none of {', '.join(CLIPS)} is in the local Hugging Face cache", distance, distance_name)
    own = OWN_CLIPS.get(name)
    scorer = ClipScorer.load(own or (Path(name) if Path(name).exists() else name), _device())
    return Judges(scorer, f"{name}'s own CLIP" if own else name, distance, distance_name)


def _distance(priors: Sequence[str]) -> tuple[Distance | None, str]:
    from pds_nerfstudio.priors.check import local_folder

    if lpips_weights_on_disk():
        return _of_pictures(Perceptual(None, _device())), "LPIPS (AlexNet)"
    for name in priors:
        try:
            if local_folder(name) is None:
                continue
            distance = _of_pictures(Perceptual(_vae_features(name), _device()))
            return distance, f"distance of VAE features of {name} (LPIPS' AlexNet is not on this machine)"
        except UserError:  # a prior that is gone: the next one, or none
            continue
    return None, "neither LPIPS' AlexNet nor a prior's VAE is on this machine"


def _of_pictures(perceptual: Perceptual) -> Distance:
    def distance(a: Image3, b: Image3) -> float:
        with torch.no_grad():
            return float(perceptual(*(picture[None].to(_device()) for picture in (a, b))))

    return distance


def _vae_features(name: str) -> Any:
    """By a prior's autoencoder, all that is loaded of it."""
    from pds_nerfstudio.images import working_size
    from pds_nerfstudio.priors.autoencoders import features_of, stride_of
    from pds_nerfstudio.priors.check import prior_folder
    from pds_nerfstudio.priors.load import load_vae

    vae = load_vae(prior_folder(name, "refinement")).to(_device()).eval().requires_grad_(False)
    multiple = stride_of(vae.config)

    def features(image: Images) -> Any:
        height, width = image.shape[-2:]
        size = working_size(height, width, min(height, width), multiple)
        return features_of(vae, torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True))

    return features


def _device() -> str:
    """Where the judges are."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _shots(model: Model, cameras: Sequence[Any]) -> list[Shot]:
    return [shoot(model, camera) for camera in cameras]


def _in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "model.safetensors"))
