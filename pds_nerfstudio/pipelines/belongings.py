"""What an edit names besides its dataset: the scene that it began with, and files of its prior and region.

They are named from wherever an edit may be resumed, and found again where a run has moved with them.
"""

from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines.carried import find_source, name_source
from pds_nerfstudio.pipelines.command_line import Given
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.settings_tree import settings
from pds_nerfstudio.priors.families import PACKAGED
from pds_nerfstudio.scenes.places import absolute, found_again
from pds_nerfstudio.scenes.source import SourceRun

LOCAL, SEVERAL_LOCAL = ("masks", "prior", "encoder", "control"), ("lora", "embedding")
"""Settings that may name a folder or a file on this disk, and those that may name several."""


def begin_with(pipeline: EditConfig, run: SourceRun) -> None:
    """Name the source of a new edit. Raises UserError where the command line names another than its run."""
    of_run, config_path = pipeline.run, run.config_path.resolve()
    if of_run.base is not None and absolute(of_run.base) not in (config_path, config_path.parent):
        raise UserError(
            "--pipeline.base says where the scene is that an edit to be resumed began with, and this is a new edit: "
            "name the run to edit with --load-dir alone."
        )
    of_run.base, of_run.base_step, of_run.carried = config_path, run.step, None


def find_source_again(config: TrainerConfig, run: SourceRun, given: Given) -> None:
    """Name the source of an edit that goes on, where it lies now. Raises UserError where it lies nowhere."""
    assert isinstance(config.pipeline, EditConfig)
    assert isinstance(run.config.pipeline, EditConfig)
    of_run, folder = config.pipeline.run, run.config_path.parent
    named, before = of_run.base, run.config.pipeline.run
    of_run.base_step = before.base_step
    if "pipeline.base" in given and named is not None:
        name_source(of_run, named)
    elif not find_source(of_run, run.config, folder):
        raise UserError(
            f"The scene that {folder} was edited from is not at {of_run.base} any more: say where it is with "
            "--pipeline.base."
        )


def find_local_files(pipeline: EditConfig, run: SourceRun) -> None:
    """Name folders on this disk so that the edit can be resumed from elsewhere; of a run that has moved, find them."""
    for name, holder in settings(pipeline):
        value = getattr(holder, name)
        if name in LOCAL and value is not None and value not in PACKAGED:
            setattr(holder, name, _found(value, run))
        elif name in SEVERAL_LOCAL:
            setattr(holder, name, tuple(_found(each, run) for each in value or ()))


def _found(named: Any, run: SourceRun) -> Any:
    """What a run names, "PATH:WEIGHT" of a LoRA too, where it lies now; what lies nowhere, as on the hub, as it is."""
    path, colon, weight = str(named).rpartition(":")
    for way, rest in ((str(named), ""), (path, colon + weight)):
        place = absolute(found_again(Path(way), run.config_path.parent, run.config)) if way else None
        if place is not None and place.exists():
            return type(named)(f"{place}{rest}")
    return named
