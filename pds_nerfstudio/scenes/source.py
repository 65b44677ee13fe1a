"""The base run: the nerfstudio reconstruction that an edit starts from, found from its checkpoints and only read.

Reading a run here runs no code of it (see `run_config`); nerfstudio's own commands run what a `config.yml` names.
"""

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig, VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.datamanagers.parallel_datamanager import ParallelDataManagerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from torch import Tensor

from pds_nerfstudio.checkpoints import load_tensors
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.runs import behind_latest, checkpoints_in, chosen_step, find_config
from pds_nerfstudio.scenes.dataset import photographs_alone
from pds_nerfstudio.scenes.families import family_of
from pds_nerfstudio.scenes.nerfacto import (
    NerfactoSceneConfig,
    available_implementation,
    implementation_of,
    require_implementation,
)
from pds_nerfstudio.scenes.places import find_data
from pds_nerfstudio.scenes.run_config import load_config
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.soundness import sound, under_present_names
from pds_nerfstudio.scenes.splatfacto import SplatfactoSceneConfig

SINGLY: tuple[tuple[type, str, Any], ...] = (
    *((VanillaDataManagerConfig, f"{split}_num_images_to_sample_from", 1) for split in ("train", "eval")),
    *((VanillaDataManagerConfig, f"{split}_num_times_to_repeat_images", 0) for split in ("train", "eval")),
    (FullImageDatamanagerConfig, "cache_images", "cpu"),
)
"""Settings of datamanagers by which photographs are looked at one by one."""


@dataclass(frozen=True)
class SourceRun:
    """A finished (or interrupted) nerfstudio run of a family that can be edited."""

    config_path: Path
    """The run's `config.yml`."""
    checkpoint_path: Path
    """The checkpoint to start from: the one asked for, or the latest."""
    step: int
    """Training step at which that checkpoint was written."""
    family: Family
    """Which of the two kinds of scene it holds."""
    config: TrainerConfig
    """Everything the run was started with."""

    @functools.cached_property
    def checkpoint(self) -> dict[str, Any]:
        """Everything that the checkpoint holds, read once, with safe loading: its tensors stay on the disk until
        somebody looks at them.

        Raises:
            UserError: for a file that is no readable nerfstudio checkpoint.
        """
        remedy = "choose another with --load-step, or reconstruct the scene again"
        loaded = load_tensors(self.checkpoint_path, remedy)
        if not isinstance(loaded.get("pipeline"), dict):
            raise UserError(f"{self.checkpoint_path} is no checkpoint of a nerfstudio run: {remedy}.")
        return loaded

    @functools.cached_property
    def scene(self) -> tuple[dict[str, Tensor], int]:
        """The state dict of its pipeline, on the CPU, and how many Gaussians are left out of it; see `sound`."""
        return sound(under_present_names(self.checkpoint["pipeline"]), self.checkpoint_path)

    @property
    def method_name(self) -> str:
        """Name of the method that made the run, "nerfacto" for nerfacto-big and -huge too."""
        return str(self.config.method_name)

    @property
    def model_config(self) -> NerfactoModelConfig | SplatfactoModelConfig:
        """The model's settings."""
        return self.config.pipeline.model  # pyright: ignore[reportReturnType]

    @property
    def datamanager_config(self) -> DataManagerConfig:
        """The datamanager's settings; its `dataparser` is the dataset format and its settings."""
        return self.config.pipeline.datamanager

    @property
    def dataparser_config(self) -> Any:
        """The dataset format and its settings."""
        return self.config.pipeline.datamanager.dataparser  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def data(self) -> Path | None:
        """The dataset where it lies now, or else as the run names it."""
        for holder in (self.datamanager_config, self.dataparser_config, self.config):
            data = getattr(holder, "data", None)
            if data is not None and Path(data) != Path():
                return Path(data)
        return None


def find_run(load_dir: Path, load_step: int | None = None, called: str = "--load-dir") -> SourceRun:
    """Find the run that `load_dir` belongs to.

    Args:
        load_dir: a run's folder, the `nerfstudio_models` folder in it, or its `config.yml`.
        load_step: the step whose checkpoint to take; the latest by default.
        called: what messages call `load_dir`.

    Raises:
        UserError: for a folder, config or checkpoint that is missing or unreadable, or a method of another family.
    """
    config_path = find_config(load_dir, called)
    config = load_config(config_path)
    find_data(config, config_path.parent)
    family = family_of(config)
    if family is None:
        raise UserError(
            f"{config_path.parent} is a run of {config.method_name!r}, which cannot be edited: reconstruct the scene "
            "with nerfacto or splatfacto (or source-nerfacto, source-splatfacto) first."
        )
    folder = behind_latest(Path(load_dir).expanduser())
    if not any(folder.glob("step-*.ckpt")):
        folder = config_path.parent / config.relative_model_dir
    checkpoints = checkpoints_in(folder)
    step = chosen_step(folder, checkpoints, load_step)
    return SourceRun(config_path, checkpoints[step], step, family, config)


def load_source_state(run: SourceRun) -> dict[str, Tensor]:
    """The state dict of the run's pipeline, on the CPU, without Gaussians that are not finite.

    Raises:
        UserError: for a checkpoint that cannot be read, or that needs a tiny-cuda-nn that is missing, or a scene that
            is empty or not finite.
    """
    state = dict(run.scene[0])
    if run.family == "nerfacto":
        require_implementation(state)
    return state


def scene_config(run: SourceRun, state: dict[str, Tensor] | None = None) -> NerfactoSceneConfig | SplatfactoSceneConfig:
    """The run's model settings for the scene class of its family.

    Args:
        run: the base run.
        state: its weights. With them, `implementation` is the one that wrote them, which `config.yml` does not tell.
    """
    if run.family == "splatfacto":
        return as_config(SplatfactoSceneConfig, run.model_config)
    implementation = available_implementation() if state is None else implementation_of(state)
    return as_config(NerfactoSceneConfig, run.model_config, implementation=implementation)


def as_config(kind: type, settings: ModelConfig | InstantiateConfig, **changes) -> Any:
    """Settings of class `kind` with every field that `settings` has under the same name.

    A config written by an older nerfstudio lacks newer fields; those take their defaults.
    """
    names = [
        field.name for field in dataclasses.fields(kind) if field.name != "_target" and hasattr(settings, field.name)
    ]
    return kind(**({name: getattr(settings, name) for name in names} | changes))


def without_workers(datamanager: Any) -> Any:
    """A copy of a run's datamanager settings, of photographs and masks alone, without the processes that prepare
    batches of rays."""
    if isinstance(datamanager, ParallelDataManagerConfig):
        own = as_config(VanillaDataManagerConfig, datamanager)
    else:
        own = copy.deepcopy(datamanager)
    own._target = photographs_alone(own)
    return own


def looked_into(datamanager: Any, chosen: Container[str] = ()) -> Any:
    """The same for those who look at single photographs and train on none; settings that were `chosen` stay.

    A NeRF's photographs are read when they are asked for: nerfstudio decodes all of them beforehand, in float32, for
    batches of rays that nobody would take. Those of splats stay off the GPU. Not for a config.yml: whoever exports a
    point cloud from the run takes batches of rays.
    """
    own = without_workers(datamanager)
    for kind, name, value in SINGLY:
        if isinstance(own, kind) and name not in chosen:
            setattr(own, name, value)
    return own


def fingerprint(*folders: Path) -> dict[str, str]:
    """SHA-256 of every file below these folders, by path: equal before and after whatever must only read them."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def checksum(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
