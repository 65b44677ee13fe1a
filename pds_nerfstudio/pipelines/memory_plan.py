"""Will an edit fit into the memory at hand? Counted before the prior is loaded, said, and mended where that changes no
result: the VAE's encoder can run again in the backward pass, and a NeRF's rays come in smaller chunks.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pds_nerfstudio.estimates import CONTEXT, COPIES, GIB, METHODS, UNCOUNTED
from pds_nerfstudio.images import working_size
from pds_nerfstudio.priors.check import prior_folder
from pds_nerfstudio.priors.families import Purpose
from pds_nerfstudio.priors.few_bits import Weights
from pds_nerfstudio.priors.folder import size_multiple, trained_size
from pds_nerfstudio.priors.footprint import Footprint, count
from pds_nerfstudio.scenes.views import Views

if TYPE_CHECKING:
    from pds_nerfstudio.pipelines.edit_config import EditConfig


@dataclass(frozen=True)
class Demand:
    """What an edit asks of its prior in a step."""

    views: int = 1
    """Renderings in a batch."""
    rows: int = 4
    """Predictions for each at once, two for each query that is guided."""
    adapters: int = 0
    """How many learn."""
    differentiated: bool = True
    """Whether a rendering's gradient goes through the encoder."""
    purpose: Purpose = "distillation"
    """What kind of prior it takes."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a step is expected to take, in bytes."""

    prior: Footprint
    scene: int
    """All copies of it; 0 where it lies on another device than the prior."""
    available: float
    """What the edit may take."""
    recompute_encoder: bool
    """Whether the encoder runs again in the backward pass."""

    @property
    def total(self) -> float:
        """All of it, with what is not counted."""
        return UNCOUNTED * (self.prior.total + self.scene) + CONTEXT

    @property
    def fits(self) -> bool:
        """Whether that is available."""
        return self.total <= self.available

    def __str__(self) -> str:
        prior = self.prior
        kept = prior.total - prior.weights
        said = (
            f"About {self.total / GIB:.1f} GiB expected on the prior's device (networks {prior.weights / GIB:.1f}, a "
            f"step {kept / GIB:.1f}, scene {self.scene / GIB:.1f}, the rest not counted), {self.available / GIB:.1f} "
            "GiB to be had."
        )
        if self.recompute_encoder:
            said += " The encoder runs again in the backward pass (--pipeline.recompute-encoder)."
        if not self.fits:
            said += (
                " It may not fit: --pipeline.weights 8bit or 4bit, --pipeline.vae-precision bf16, --pipeline.encoder "
                "with a tiny one, fewer --pipeline.views-per-step, or a smaller --pipeline.resolution need less."
            )
        return said


def plan_edit(
    config: "EditConfig",
    views: Views,
    scene: Iterable[Tensor],
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
) -> MemoryPlan | None:
    """What an edit will take on the prior's device at the largest of its views; None where nobody wants to know."""
    available = available_memory(config.compute.fit, device)
    if available is None:
        return None
    folder = prior_folder(config.prior, config.demand.purpose)
    short_side = config.view.resolution or trained_size(folder)
    sizes = (working_size(*views.size(i), short_side, size_multiple(folder)) for i in range(len(views)))
    return plan_memory(
        folder,
        max(sizes, key=math.prod),
        config.demand,
        scene,
        available,
        dtype=dtype,
        vae_dtype=vae_dtype,
        recompute_encoder=config.compute.recompute_encoder,
        stored=config.network.weights,
    )


def work_of(method: str, config: "EditConfig", size: tuple[int, int]) -> float:
    """TFLOP of a step of a method that is counted, by the prior of an edit, at views of `size` (height, width); a tiny
    encoder's are left out."""
    from pds_nerfstudio.priors.work import count_work

    work = count_work(prior_folder(config.prior, config.demand.purpose), *size)
    if config.network.encoder is not None:
        work = replace(work, encoder=0, back=0)
    return config.demand.views * work.of_step(*METHODS[method.removesuffix("-splat")].formula) / 1e12


def available_memory(fit: float | Literal["auto", "off"], device: torch.device) -> float | None:
    """Bytes that an edit may take on a device; None where nobody wants to know."""
    if fit == "off":
        return None
    if fit == "auto":
        return float(torch.cuda.mem_get_info(device)[0]) + CONTEXT if device.type == "cuda" else None
    return fit * GIB


def plan_memory(
    folder: Path,
    size: tuple[int, int],
    demand: Demand,
    scene: Iterable[Tensor],
    available: float,
    *,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    recompute_encoder: bool,
    stored: Weights = "full",
) -> MemoryPlan:
    """Count a step; where it does not fit, count it again with the encoder run twice.

    Args:
        folder: the prior's, in diffusers' layout.
        size: height and width in pixels at which views are shown to it.
        scene: the scene's tensors, if they lie on the prior's device.
        available: bytes.
        stored: how the denoiser's weights are.
    """

    def counted(again: bool) -> Footprint:
        return count(
            folder,
            *size,
            views=demand.views,
            rows=demand.rows,
            adapters=demand.adapters,
            dtype=dtype,
            vae_dtype=vae_dtype,
            recompute_encoder=again,
            differentiated=demand.differentiated,
            stored=stored,
        )

    bytes_of_scene = COPIES * sum(value.nbytes for value in scene)
    plan = MemoryPlan(counted(recompute_encoder), bytes_of_scene, available, recompute_encoder)
    if plan.fits or recompute_encoder or not demand.differentiated:
        return plan
    return replace(plan, prior=counted(True), recompute_encoder=True)
