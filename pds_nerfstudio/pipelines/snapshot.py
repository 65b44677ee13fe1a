"""A scene with everything that trains it, at one step: what an edit can go back to, also after it was resumed."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from pds_nerfstudio.checkpoints import load_tensors
from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import written
from pds_nerfstudio.pipelines.base import EditPipeline
from pds_nerfstudio.scenes.scene import load_weights


class Training(Protocol):
    """What trains a scene: nerfstudio's trainer."""

    pipeline: EditPipeline
    optimizers: Optimizers
    grad_scaler: Any


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copies of what a trainer holds. Densification may have changed the scene's size since."""

    step: int
    """The edit step before which it was taken."""
    scene: dict[str, Tensor]
    """See `Scene.snapshot`; empty for the source, which is read from its run."""
    beside: dict[str, Tensor]
    """See `EditPipeline.beside`."""
    optimizers: dict[str, Any]
    schedulers: dict[str, Any]
    grad_scaler: dict[str, Any]

    @classmethod
    def of(cls, training: Training, step: int, scene: bool = True) -> "Snapshot":
        """What `training` holds before `step`: the tensors themselves, which the next step changes."""
        pipeline, optimizers = training.pipeline, training.optimizers
        return cls(
            step,
            pipeline.scene.state() if scene else {},
            pipeline.beside(),
            {name: optimizer.state_dict() for name, optimizer in optimizers.optimizers.items()},
            {name: scheduler.state_dict() for name, scheduler in optimizers.schedulers.items()},
            training.grad_scaler.state_dict(),
        )

    def copied(self) -> "Snapshot":
        """The same, which no step changes."""
        return copy.deepcopy(self)

    def put_back(self, training: Training, source: Mapping[str, Tensor] | None = None) -> None:
        """Make `training` what it was; with `source`, a pipeline state dict, on that scene."""
        pipeline = training.pipeline
        if source is None:
            pipeline.scene.restore(self.scene)
        else:
            load_weights(pipeline.model, source)
        pipeline.load_beside(self.beside)
        training.optimizers.zero_grad_all()
        training.optimizers.load_optimizers(copy.deepcopy(self.optimizers))  # optimisers step in place what they get
        training.optimizers.load_schedulers(self.schedulers)
        training.grad_scaler.load_state_dict(self.grad_scaler)
        if source is not None:
            pipeline.freeze(pipeline.config.scene.added())


def save_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write it, whole or not at all.

    Raises:
        UserError: there is no room for it.
    """
    try:
        with written(path) as partial:
            torch.save(vars(snapshot), partial)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The snapshot {path} could not be written ({first_line(error)}): make room on the disk."
        ) from error


def load_snapshot(path: Path) -> Snapshot:
    """Read what `save_snapshot` wrote; tensors stay on the disk until they are put back.

    Raises:
        UserError: the file is missing or damaged.
    """
    remedy = "go back to another moment"
    if not path.is_file():
        raise UserError(f"{path} is not there: {remedy}.")
    try:
        return Snapshot(**load_tensors(path, remedy))
    except TypeError as error:
        raise UserError(f"{path} holds no snapshot: {remedy}.") from error
