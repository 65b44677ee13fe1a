"""The numbers of an edit, each with its formula: does it show what was asked, and is the rest what it was?"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.perceptual import Perceptual
from pds_nerfstudio.pictures import Image3, Images
from pds_nerfstudio.priors.families import WORLDS
from pds_nerfstudio.scenes.paths import camera_path, evenly
from pds_nerfstudio.scenes.shots import Shot, shoot, view_camera

MOST_VIEWS = 24
"""Of a run, whose pictures are kept to be shown; those of a longer capture are chosen evenly."""
MOST_TRAINING_VIEWS = 50
"""That are measured where no view is held out; an even choice of more."""
HELD_OUT, TRAINING = "held-out views", "training views (none is held out)"
"""What numbers are taken over."""

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
    over: str = ""
    """What it is taken over; empty where that is the views of a run, see `Measured.over`."""
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
    """Of a few views; those at `shown`."""
    shown: list[int]
    """Their numbers among `Pair.held_out`."""
    views: int
    """How many were measured."""
    over: str
    """What these are: `HELD_OUT` or `TRAINING`."""

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
    measured, over = views_of(pair)
    pictured = set(evenly(len(measured), MOST_VIEWS))
    values: dict[str, list[float]] = {}
    before, after = [], []
    for number, index in enumerate(measured):  # of which a few alone stay in memory
        camera = view_camera(pair.held_out, index, short_side)
        b, a = shoot(pair.before, camera), shoot(pair.after, camera)
        for name, value in _of_view(b.image, a.image, judges, prompts).items():
            values.setdefault(name, []).append(value)
        if number in pictured:
            before.append(b)
            after.append(a)
    first = view_camera(pair.training, 0, short_side)
    path = camera_path(pair.training, "interpolated", frames, int(first.height), int(first.width))
    steps = [path[i : i + 1] for i in range(len(path))]
    moving_before, moving_after = (
        torch.stack([shoot(model, step).image for step in steps]) for model in (pair.before, pair.after)
    )
    if judges.distance is not None:
        d = judges.distance
        values["a_distance"] = [d(x, y) for x, y in itertools.pairwise(moving_after)]
        values["a_distance_before"] = [d(x, y) for x, y in itertools.pairwise(moving_before)]
    if judges.clip is not None:
        values["directional_consistency"] = directional_consistency(judges.clip, moving_before, moving_after).tolist()
    return Measured(values, before, after, [measured[i] for i in sorted(pictured)], len(measured), over)


def views_of(pair: Pair) -> tuple[list[int], str]:
    """Which of a pair's `held_out` views are measured, and what they are.

    Where none is held out, and where all are, which is to say that the scene was trained on them too, an even choice.
    """
    count = len(pair.held_out)
    if set(pair.held_out.names) <= set(pair.training.names):
        return evenly(count, MOST_TRAINING_VIEWS), TRAINING
    return list(range(count)), HELD_OUT


def _of_view(before: Image3, after: Image3, judges: Judges, prompts: tuple[str, str]) -> dict[str, float]:
    """The numbers of one view."""
    b, a = before[None], after[None]
    src_prompt, tgt_prompt = prompts
    values = {"psnr": float(psnr(a, b)), "ssim": float(ssim(a, b))}
    if judges.distance is not None:
        values["distance"] = judges.distance(after, before)
    if (clip := judges.clip) is not None and tgt_prompt:
        values["clip_score"] = float(clip.similarity(a, [tgt_prompt]))
        values["clip_score_before"] = float(clip.similarity(b, [tgt_prompt]))
        if src_prompt:
            values["directional_similarity"] = float(directional_similarity(clip, b, a, src_prompt, tgt_prompt))
    return values


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
    scorer = ClipScorer.load(own or (Path(name) if Path(name).exists() else name), default_device())
    return Judges(scorer, f"{name}'s own CLIP" if own else name, distance, distance_name)


def _distance(priors: Sequence[str]) -> tuple[Distance | None, str]:
    from pds_nerfstudio.priors.check import local_folder

    if lpips_weights_on_disk():
        return _of_pictures(Perceptual(None, default_device())), "LPIPS (AlexNet)"
    for name in priors:
        try:
            if local_folder(name) is None:
                continue
            distance = _of_pictures(Perceptual(_vae_features(name), default_device()))
            return distance, f"distance of VAE features of {name} (LPIPS' AlexNet is not on this machine)"
        except UserError:  # a prior that is gone: the next one, or none
            continue
    return None, "neither LPIPS' AlexNet nor a prior's VAE is on this machine"


def _of_pictures(perceptual: Perceptual) -> Distance:
    def distance(a: Image3, b: Image3) -> float:
        with torch.no_grad():
            return float(perceptual(*(picture[None].to(default_device()) for picture in (a, b))))

    return distance


def _vae_features(name: str) -> Any:
    """By a prior's autoencoder, all that is loaded of it."""
    from pds_nerfstudio.images import working_size
    from pds_nerfstudio.priors.autoencoders import features_of, stride_of
    from pds_nerfstudio.priors.check import prior_folder
    from pds_nerfstudio.priors.load import load_vae

    vae = load_vae(prior_folder(name, "refinement")).to(default_device()).eval().requires_grad_(False)
    multiple = stride_of(vae.config)

    def features(image: Images) -> Any:
        height, width = image.shape[-2:]
        size = working_size(height, width, min(height, width), multiple)
        return features_of(vae, torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True))

    return features


def _in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "model.safetensors"))
