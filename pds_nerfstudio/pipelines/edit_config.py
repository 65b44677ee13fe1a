"""What every edit can be told, in the order in which its help lists it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines.half_precision import OF_MEANS
from pds_nerfstudio.pipelines.memory_plan import Demand
from pds_nerfstudio.pipelines.settings import (
    Compute,
    Flat,
    NetworkSettings,
    RegionSettings,
    RunSettings,
    SceneSettings,
    ViewSettings,
)
from pds_nerfstudio.pipelines.settings_tree import adopt_state
from pds_nerfstudio.prompts import NO_UNET, check_prompts
from pds_nerfstudio.scenes.families import family_of_model

C = TypeVar("C")
ORDER = (
    *("_target", "datamanager", "model", "src_prompt", "tgt_prompt", "negative_prompt", "prior", "objective", "by"),
    *("edit_steps", "anneal", "perturbation", "refinement", "loss", "region", "scene", "view", "adapter", "network"),
    *("compute", "run"),
)
"""Of an edit's settings: what everybody sets, what one tunes, the rest."""


def listed_in_order(cls: type[C]) -> type[C]:
    """Let a configuration's fields, and with them its help, stand in ORDER, its own other ones behind the prior.

    A dataclass lists inherited fields first, so that a method's own settings would come last.
    """
    own = [name for name in cls.__dataclass_fields__ if name not in ORDER]  # pyright: ignore[reportAttributeAccessIssue]
    first, rest = ORDER[: ORDER.index("objective")], ORDER[ORDER.index("objective") :]
    by_name = cls.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
    cls.__dataclass_fields__ = {name: by_name[name] for name in (*first, *own, *rest) if name in by_name}  # pyright: ignore[reportAttributeAccessIssue]
    return cls


@listed_in_order
@dataclass
class EditConfig(VanillaPipelineConfig):
    """What an edit is: prompts, prior, how views are shown to it, and where the scene may change."""

    src_prompt: str = ""
    """What the scene shows now, for example "a photo of a man"."""
    tgt_prompt: str = ""
    """What the scene should show, for example "a photo of a man raising his arms"."""
    negative_prompt: str = ""
    """Prompt that guidance leads away from; by default the empty prompt."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """The diffusion model: a hub id, a local diffusers folder, or "toybox" or "studio", the small ones here."""
    region: Flat[RegionSettings] = field(default_factory=RegionSettings)
    """Where the scene may change."""
    scene: Flat[SceneSettings] = field(default_factory=SceneSettings)
    """What this family of scenes can be told."""
    view: Flat[ViewSettings] = field(default_factory=ViewSettings)
    """How views are shown to the prior."""
    network: Flat[NetworkSettings] = field(default_factory=NetworkSettings)
    """What the prior's networks are."""
    compute: Flat[Compute] = field(default_factory=Compute)
    """What belongs to the machine."""
    run: Flat[RunSettings] = field(default_factory=RunSettings)
    """What tells this run from another."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Only fields can be set: a setting that lies in a group would otherwise be set beside it, and mean nothing."""
        if name not in type(self).__dataclass_fields__:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}; is it one of a group's?")
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in what a `config.yml` holds, also one of an older version."""
        model = state.get("model")
        adopt_state(self, state, None if model is None else family_of_model(model))

    @property
    def adapters(self) -> tuple[str, ...]:
        """Which adapters of the prior the edit trains."""
        return ()

    @property
    def demand(self) -> Demand:
        """What a step asks of the prior."""
        return Demand(differentiated=False)

    @property
    def first_scale(self) -> float:
        """What gradients are multiplied with in the first step under float16 autocast."""
        return OF_MEANS

    def check_prompts(self) -> None:
        """Raise UserError for prompts that this kind of edit cannot work with."""
        check_prompts(self.src_prompt, self.tgt_prompt, "--pipeline.", self.reads_source_prompt)

    @property
    def reads_source_prompt(self) -> bool:
        """Whether the source prompt means anything to this kind of edit."""
        return False

    def check_prior(self) -> None:
        """Raise UserError for a prior that cannot be loaded, or settings that do not fit it; nothing is loaded."""
        from pds_nerfstudio.priors.check import local_folder
        from pds_nerfstudio.priors.extras import check_extras_of
        from pds_nerfstudio.priors.folder import size_multiple
        from pds_nerfstudio.priors.tiny import check_encoder

        self._check_model()
        folder = local_folder(self.prior)
        if self.network.encoder is not None:
            check_encoder(self.network.encoder, folder)
        check_extras_of(folder, self.network.lora, self.network.embedding)
        if self.region.region is not None:
            self._check_search(folder)
        if self.view.resolution is None or folder is None:
            return
        least = size_multiple(folder)
        if self.view.resolution < least:
            raise UserError(
                f"--pipeline.resolution {self.view.resolution} is below the prior's latent stride of {least} pixels: "
                "leave it out, or give the size the prior was trained at."
            )

    def _check_model(self) -> None:
        from pds_nerfstudio.priors.check import check_prior

        check_prior(self.prior, self.demand.purpose)

    def _check_search(self, folder: Path | None) -> None:
        """Raise UserError for a prior that cannot look for words as asked; of one that is not here yet, it does so."""
        from pds_nerfstudio.priors.folder import family_in

        if folder is not None and family_in(folder).denoiser != "unet" and self.region.region_by != "difference":
            raise UserError(NO_UNET)
