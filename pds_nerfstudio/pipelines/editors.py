"""What edits one training image of a dataset update: InstructPix2Pix, edit-friendly DDPM inversion, or FlowEdit.

Another editor is one class here and one entry of EDITORS.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.flowedit import FlowEdit
from pds_nerfstudio.objectives.inversion import DDPMInversion
from pds_nerfstudio.objectives.sdedit import ddim_steps, noise_and_denoise
from pds_nerfstudio.pipelines.base import noise_like
from pds_nerfstudio.pipelines.dataset_update import Picture

Original = Float[Tensor, "1 channels latent_height latent_width"]
Seen = Viewpoints | None


class Editor(ABC):
    """Makes a new image of a view. Nothing is loaded before `load`."""

    reads_source_prompt: ClassVar[bool]

    @classmethod
    @abstractmethod
    def of(cls, config: Any) -> "Editor":
        """The editor with the settings of an `idu.IduConfig`."""

    @staticmethod
    @abstractmethod
    def check(prior: str) -> None:
        """Raise UserError for a model that it cannot use."""

    @staticmethod
    @abstractmethod
    def load(*args: Any, **settings: Any) -> Any:
        """Its model; see `priors.stable_diffusion.load_prior`."""

    @abstractmethod
    def edit(self, prior: Any, original: Original, image: Picture, generator: torch.Generator, seen: Seen) -> Picture:
        """The view as it should be.

        Args:
            prior: what `load` gave.
            original: latent of the view before the edit.
            image: its rendering now, RGB in [0, 1].
            generator: draws strength and noise.
            seen: from where, for priors that take cameras.
        """


@dataclass(frozen=True)
class InstructPix2Pix(Editor):
    """Noises the rendering and denoises it under the prompt, shown the original (Haque et al. 2023)."""

    config: Any
    reads_source_prompt: ClassVar[bool] = False

    @classmethod
    def of(cls, config: Any) -> "InstructPix2Pix":
        """See `Editor.of`."""
        return cls(config)

    @staticmethod
    def check(prior: str) -> None:
        """See `Editor.check`."""
        from pds_nerfstudio.priors.instruct import check_instruct

        check_instruct(prior)

    @staticmethod
    def load(*args: Any, **settings: Any) -> Any:
        """See `Editor.load`."""
        from pds_nerfstudio.priors.instruct import load_instruct

        return load_instruct(*args, **settings)

    def edit(self, prior: Any, original: Original, image: Picture, generator: torch.Generator, seen: Seen) -> Picture:
        """See `Editor.edit`; no InstructPix2Pix takes cameras."""
        config, x0 = self.config, prior.encode(image)
        steps = ddim_steps(prior.schedule, config.draw_strength(generator), config.num_steps)
        eps = noise_like(x0, [generator])
        shown = prior.shown(original, config.image_guidance)
        return prior.decode(noise_and_denoise(shown, x0, eps, steps, config.tgt_prompt, config.guidance_scale))


@dataclass(frozen=True)
class Inversion(Editor):
    """Inverts the original and makes it again under the target prompt (Huberman-Spiegelglas et al. 2023)."""

    settings: DDPMInversion | FlowEdit
    src_prompt: str
    tgt_prompt: str
    reads_source_prompt: ClassVar[bool] = True

    @classmethod
    def of(cls, config: Any) -> "Inversion":
        """See `Editor.of`."""
        return cls(config.inversion, config.src_prompt, config.tgt_prompt)

    @staticmethod
    def check(prior: str) -> None:
        """See `Editor.check`."""
        from pds_nerfstudio.priors.check import check_prior

        check_prior(prior)

    @staticmethod
    def load(*args: Any, **settings: Any) -> Any:
        """See `Editor.load`."""
        from pds_nerfstudio.priors.load import load_prior

        return load_prior(*args, **settings)

    def edit(self, prior: Any, original: Original, image: Picture, generator: torch.Generator, seen: Seen) -> Picture:
        """See `Editor.edit`; the rendering as it is now has no part in it."""
        eps = torch.stack([noise_like(original, [generator]) for _ in range(self.settings.steps_run)])
        return prior.decode(self.settings.edit(prior, original, self.src_prompt, self.tgt_prompt, eps, seen))


class Flow(Inversion):
    """FlowEdit of the original (Kulikov et al. 2024)."""

    @classmethod
    def of(cls, config: Any) -> "Flow":
        """See `Editor.of`."""
        return cls(config.flowedit, config.src_prompt, config.tgt_prompt)


EDITORS: dict[str, type[Editor]] = {"instruct": InstructPix2Pix, "inversion": Inversion, "flowedit": Flow}
"""By the names that `--pipeline.editor` takes."""
