"""What an edit carries of its source, so that it can go on, be rendered and be measured where the source is not.

RUN/source.pt    the scene's weights before the edit, and the checksum of the checkpoint that they are from
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from pds_nerfstudio.checkpoints import load_tensors
from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import written
from pds_nerfstudio.pipelines.settings import RunSettings
from pds_nerfstudio.scenes.places import found_again
from pds_nerfstudio.scenes.scene import MODEL
from pds_nerfstudio.scenes.source import checksum, find_run, load_source_state

CARRIED = "source.pt"


def carry(settings: RunSettings, folder: Path) -> None:
    """Write the source of an edit into its own folder, from where the edit then reads it.

    Raises:
        UserError: there is no room for it.
    """
    if not settings.carry_source:
        return
    path = folder / CARRIED
    try:
        with written(path) as partial:
            weights = {name: value for name, value in source_state(settings).items() if name.startswith(MODEL)}
            torch.save({"pipeline": weights, "checksum": settings.base_checksum}, partial)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The source's weights could not be written to {path} ({first_line(error)}): make room on the disk, or go "
            "without them by --pipeline.carry-source False."
        ) from error
    settings.carried = path


def source_state(settings: RunSettings) -> Mapping[str, Tensor]:
    """State dict of the scene before the edit: the one that the edit carries, or else the one in the run it began with.

    Raises:
        UserError: it cannot be read.
    """
    if settings.carried is not None:
        return load_tensors(settings.carried, "name the scene before the edit with --pipeline.base")["pipeline"]
    assert settings.base is not None
    return load_source_state(find_run(settings.base, settings.base_step, called="The scene before the edit"))


def find_source(settings: RunSettings, config: TrainerConfig, folder: Path) -> bool:
    """Let the settings of an edit in `folder` name its source where it lies now; returns whether it lies anywhere.

    Paths and checkpoints are only looked at; what lies in the folder itself is always the right one.
    """
    settings.carried = folder / CARRIED if (folder / CARRIED).is_file() else None
    if settings.base is not None:
        settings.base = found_again(Path(settings.base), folder, config)
    return settings.carried is not None or (settings.base is not None and settings.base.exists())


def name_source(settings: RunSettings, base: Path) -> None:
    """Take `base`, which `--pipeline.base` names, for the source of an edit that goes on.

    Raises:
        UserError: it is no run, or not the scene that the edit began with.
    """
    run = find_run(base, settings.base_step, called="--pipeline.base")
    if settings.base_checksum is not None and checksum(run.checkpoint_path) != settings.base_checksum:
        raise UserError(
            f"--pipeline.base {base} is not the scene that this edit began with (its checkpoint of step {run.step} is "
            "another): name that one, or begin a new edit with --load-dir."
        )
    settings.base, settings.base_step, settings.carried = Path(os.path.abspath(run.config_path)), run.step, None
