"""The families of scenes: the only place that asks which one a model or a run's settings belong to."""

from typing import Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model

from pds_nerfstudio.scenes.hull import Region
from pds_nerfstudio.scenes.nerf import NerfScene
from pds_nerfstudio.scenes.rendering import RAYS_PER_CHUNK, Chunks, Rendering
from pds_nerfstudio.scenes.scene import Family, Scene
from pds_nerfstudio.scenes.splats import SplatScene

FAMILIES: tuple[type[Scene], ...] = (NerfScene, SplatScene)


def scene_of(model: Model) -> Scene:
    """The scene that `model` is. Raises TypeError for a model of another family."""
    for kind in FAMILIES:
        if isinstance(model, kind.model_type):
            return kind(model)
    known = ", ".join(kind.family for kind in FAMILIES)
    raise TypeError(f"scenes are of the families {known}, and {type(model).__name__} is of none of them")


def family_of(config: TrainerConfig) -> Family | None:
    """Which family of scenes a run's model belongs to, None for any other method.

    Decided by the model's settings, not by the method's name: nerfacto-big and -huge, splatfacto-big, `source-*` and
    earlier edits count.
    """
    return family_of_model(config.pipeline.model)


def family_of_model(config: Any) -> Family | None:
    """The same, of the model's settings themselves."""
    return next((kind.family for kind in FAMILIES if isinstance(config, kind.config_type)), None)


def scene_type(family: Family) -> type[Scene]:
    """The class of a family's scenes."""
    return next(kind for kind in FAMILIES if kind.family == family)


def render(
    model: Model,
    camera: Cameras,
    *,
    recompute: bool | None = None,
    rays_per_chunk: int = RAYS_PER_CHUNK,
    regularise: bool = False,
    backward_share: float = 1.0,
    within: Region | None = None,
) -> Rendering:
    """Render one view of a model, see `Scene.render` and `Chunks`."""
    chunks = Chunks(rays_per_chunk, recompute, backward_share)
    return scene_of(model).render(camera, chunks, regularise=regularise, within=within)
