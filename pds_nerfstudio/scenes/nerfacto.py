"""nerfacto as a scene to edit: `super()` plus metrics that are loaded on first use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils.external import TCNN_EXISTS

from pds_nerfstudio.deferred_lpips import deferred_lpips
from pds_nerfstudio.errors import UserError


def available_implementation() -> Literal["tcnn", "torch"]:
    """ "tcnn" where tiny-cuda-nn can be imported, else "torch"."""
    return "tcnn" if TCNN_EXISTS else "torch"


def implementation_of(state: Mapping[str, Any]) -> Literal["tcnn", "torch"]:
    """Which implementation, "tcnn" or "torch", wrote this state dict (of a model or a pipeline).

    The two lay their weights out differently and cannot read each other's. nerfstudio falls back to torch where
    tiny-cuda-nn is missing but leaves "tcnn" in `config.yml`: only the weights tell.
    """
    return "tcnn" if any(".tcnn_encoding." in name for name in state) else "torch"


def require_implementation(state: Mapping[str, Any]) -> None:
    """Raise `UserError` where `state` needs tiny-cuda-nn and this environment has none."""
    if implementation_of(state) == "tcnn" and not TCNN_EXISTS:
        raise UserError(
            "this nerfacto run was trained with tiny-cuda-nn, which is not installed here: install it "
            "(https://github.com/NVlabs/tiny-cuda-nn), or reconstruct again with --pipeline.model.implementation torch."
        )


@dataclass
class NerfactoSceneConfig(NerfactoModelConfig):
    """nerfacto's settings, for a `NerfactoScene`."""

    _target: type = field(default_factory=lambda: NerfactoScene)


class NerfactoScene(NerfactoModel):
    """nerfacto that is built without network and evaluated without LPIPS where its weights are missing."""

    config: NerfactoSceneConfig

    def populate_modules(self):
        """Build the scene; AlexNet is neither downloaded nor saved with it."""
        with deferred_lpips():
            super().populate_modules()

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Load weights. Raises `UserError` where they need tiny-cuda-nn and it is missing."""
        require_implementation(state_dict)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def get_image_metrics_and_images(self, outputs, batch):
        """nerfacto's metrics, without those that could not be computed."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        return {name: value for name, value in metrics.items() if value == value}, images
