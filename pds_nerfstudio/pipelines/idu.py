"""Iterative dataset update: training images edited one by one (Haque et al. 2023), the baseline of this field.

    "instruct"    image i = InstructPix2Pix(render(view i; θ) noised to t, original i, y_tgt), t ~ U[lo, hi]     IN2N
    "inversion"   image i = DDPM inversion of the original i, made again under y_tgt                            Inv2N
    "flowedit"    image i = FlowEdit of the original i from y_src to y_tgt (Kulikov et al. 2024)

The scene trains on all its views, those not edited yet showing their originals, by L1 and a perceptual distance. The
trap: InstructPix2Pix reads what to do ("make it blue") and a text-to-image prior what is there ("a blue ball"): the
target prompt has to be of the editor's kind. toybox's editor reads captions.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.flowedit import FlowEdit
from pds_nerfstudio.objectives.inversion import DDPMInversion
from pds_nerfstudio.pipelines.dataset_update import DatasetUpdateConfig, DatasetUpdatePipeline, Picture
from pds_nerfstudio.pipelines.edit_config import listed_in_order
from pds_nerfstudio.pipelines.editors import EDITORS
from pds_nerfstudio.pipelines.memory_plan import Demand
from pds_nerfstudio.pipelines.settings import Flat, SourceViewSettings
from pds_nerfstudio.ranges import Guidance, Weight


@listed_in_order
@dataclass
class IduConfig(DatasetUpdateConfig):
    """How images are edited and what the scene makes of them."""

    _target: type = field(default_factory=lambda: IduPipeline)
    editor: Literal["instruct", "inversion", "flowedit"] = "instruct"
    """What edits the images. instruct: InstructPix2Pix (Haque et al. 2023, IN2N). inversion: edit-friendly DDPM
    inversion (Inv2N of Koo et al. 2024). flowedit: FlowEdit. The last two take an ordinary text-to-image model as
    --pipeline.prior."""
    prior: str = "timbrooks/instruct-pix2pix"
    """The editor's diffusion model: a hub id, a local diffusers folder, "toybox" or "studio"."""
    view: Flat[SourceViewSettings] = field(default_factory=lambda: SourceViewSettings(source_images="photograph"))
    """How the editor sees the views. The originals are photographs."""
    guidance_scale: Guidance = 7.5
    """With instruct: guidance by the prompt, s_T."""
    image_guidance: Guidance = 1.5
    """With instruct: guidance by the original image, s_I. More stays closer to it."""
    inversion: DDPMInversion = field(default_factory=DDPMInversion)
    """With inversion: its settings."""
    flowedit: FlowEdit = field(default_factory=FlowEdit)
    """With flowedit: its settings."""
    perceptual_weight: Weight = 1.0
    """Weight of the perceptual distance beside the mean absolute difference (Haque et al. 2023)."""

    @property
    def reads_source_prompt(self) -> bool:
        """Whether the editor does."""
        return EDITORS[self.editor].reads_source_prompt

    @property
    def demand(self) -> Demand:
        """See `EditConfig.demand`."""
        return Demand(differentiated=False, purpose="editing" if self.editor == "instruct" else "distillation")

    def _check_model(self) -> None:
        EDITORS[self.editor].check(self.prior)

    def _check_search(self, folder: Path | None) -> None:
        if self.editor == "instruct":
            raise UserError(
                "--pipeline.region asks a text-to-image prior where its words are, and InstructPix2Pix is none: give "
                "--pipeline.masks or --pipeline.box, or --pipeline.editor inversion."
            )
        super()._check_search(folder)


class IduPipeline(DatasetUpdatePipeline):
    """Replaces training images by edits of them."""

    config: IduConfig

    def load(self, *args: Any, **settings: Any) -> Any:
        """The editor's model."""
        return EDITORS[self.config.editor].load(*args, **settings)

    def edited(self, index: int, image: Picture, generator: torch.Generator) -> Picture:
        """The view as the editor would have it."""
        editor = EDITORS[self.config.editor].of(self.config)
        cameras = self.shown.seen_from([index])
        return editor.edit(self.prior, self.source_view(index).latent, image, generator, cameras)

    def losses_on(self, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 and a perceptual distance between one of all views and its image, or its original before it has one."""
        index = int(torch.randint(len(self.views), (), generator=generator))
        rendering = self.render_view(index)
        image = rendering.image
        target = self.target(index) if index in self._images else self.source_view(index).image
        target = target.to(image)
        return {
            "l1_loss": (image - target).abs().mean(),
            "perceptual_loss": self.config.perceptual_weight * self.perceptual(image, target),
            **rendering.regulariser,
        }
