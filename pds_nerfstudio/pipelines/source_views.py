"""What an edit holds its scene against: the source's views as the prior sees them, each made once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model
from torch import Tensor

from pds_nerfstudio.images import depth_picture
from pds_nerfstudio.objectives.schedule import Latents
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.rendering import Rendering
from pds_nerfstudio.scenes.source import SINGLY, looked_into
from pds_nerfstudio.scenes.views import Joined, Views

if TYPE_CHECKING:
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

ON_DEVICE = 512 << 20
"""Bytes of latents that are kept on the scene's device; those of larger captures wait in main memory."""


@dataclass(frozen=True, eq=False)
class SourceView:
    """What a view shows before the edit."""

    index: int
    image: Float[Tensor, "1 3 height width"]
    """RGB in [0, 1], in half precision on the CPU: a dataset of these is not small, and few steps look at one."""
    latent: Latents
    """x⁰_src."""
    control: Float[Tensor, "1 3 height width"] | None = None
    """Its depth as a ControlNet is shown it, where the edit has one; kept as the image is."""


class SourceViews:
    """The source's views, made on first use. No part of the pipeline's state: a checkpoint holds none of it."""

    def __init__(
        self,
        load_scene: Callable[[], Model],
        photographs: bool,
        device: torch.device | str,
        background: Callable[[], Float[Tensor, "3"]] = lambda: torch.zeros(3),
    ):
        """`load_scene` loads the scene before the edit; `photographs` stand in for its renderings.

        Latents are given on `device`, the scene's, wherever the prior is, and kept there where all of them are few.
        Transparent photographs are put on `background`, RGB in [0, 1].
        """
        self._device = device
        self._background = background
        self._load_scene = load_scene
        self._photographs = photographs
        self._scene: Model | None = None
        self.made: dict[int, SourceView] = {}
        """By number of the view."""

    @torch.no_grad()
    def view(
        self, prior: "StableDiffusionPrior", views: Views | Joined, index: int, height: int, width: int
    ) -> SourceView:
        """The source image of a view, its latent, and its depth where the prior has a ControlNet."""
        if index not in self.made:
            made = self._make(prior, views, index, height, width)
            few = len(views) * made.latent.nbytes <= ON_DEVICE
            self.made[index] = made if few else replace(made, latent=made.latent.cpu())
            if len(self.made) == len(views):
                self._scene = None
        made = self.made[index]
        return replace(made, latent=made.latent.to(self._device))

    def scene(self) -> Model:
        """The scene before the edit; let go once every view has been made, and loaded again if asked for."""
        if self._scene is None:
            self._scene = self._load_scene()
        return self._scene

    def _make(
        self, prior: "StableDiffusionPrior", views: Views | Joined, index: int, height: int, width: int
    ) -> SourceView:
        control = None
        photograph = self._photographs and views.at(index)[0].photographed
        if photograph:
            image = views.image(index, height, width, self._background())
        if not photograph or prior.controlnet is not None:
            within = views.at(index)[0].within
            rendering = render(self.scene(), views.camera(index, height, width), within=within)
            if prior.controlnet is not None:
                control = depth_of(rendering).half().cpu()
            if not photograph:
                image = rendering.image
        latent = prior.encode(image.to(self._device))
        return SourceView(index, image.half().cpu(), latent, control)


def depth_of(rendering: Rendering) -> Tensor:
    """A rendering's depth as a ControlNet is shown it."""
    return depth_picture(rendering.depth.detach(), rendering.accumulation.detach())


@contextmanager
def photographs_singly(config: TrainerConfig) -> Iterator[None]:
    """Within this block the edit's datamanager is built to look at single photographs; its settings stay."""
    given, of_run = getattr(config, "given", None) or (), config.pipeline.datamanager
    chosen = [name for _, name, _ in SINGLY if f"pipeline.datamanager.{name}" in given]
    config.pipeline.datamanager = looked_into(of_run, chosen)
    try:
        yield
    finally:
        config.pipeline.datamanager = of_run
