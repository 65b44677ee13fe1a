"""Where what a run names lies now: a run and its dataset are moved together, and copied to other machines.

A `config.yml` names places as they were when the run began. What is not there any more is looked for where it lay as
seen from the run, so that a folder that holds both can be moved as a whole.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # which would cost those who only look at paths the import of torch
    from nerfstudio.engine.trainer import TrainerConfig


def absolute(path: Path | None) -> Path | None:
    """The same place from wherever it is named; links in it stay links."""
    return None if path is None or Path(path) == Path() else Path(os.path.abspath(path))


def found_again(path: Path, folder: Path, config: "TrainerConfig") -> Path:
    """Where `path` lies now; as it is where it lies nowhere.

    Args:
        path: as the run's configuration names it.
        folder: where the run lies now.
        config: the run's configuration.
    """
    own = config.get_base_dir()
    return lies_now(path, folder, getattr(config, "made_in", None) or own, own)


def lies_now(path: Path, folder: Path, began: Path, own: Path) -> Path:
    """The same, of a run that began in `began` and whose configuration names `own` as its folder.

    A relative path counts from where the run was started: what lies there from here may be another project's.
    """
    moved = list(_moved(path, folder, began, own))
    places = (path, *moved) if path.is_absolute() else (*moved, path)
    return next((place for place in places if place.exists()), path)


def find_data(config: "TrainerConfig", folder: Path) -> None:
    """Let a run's configuration name its dataset where it lies now."""
    for holder in _holders(config):
        if absolute(holder.data) is not None:
            holder.data = found_again(Path(holder.data), folder, config)


def name_data(config: "TrainerConfig", data: Path) -> None:
    """Let a configuration name this dataset."""
    for holder in _holders(config):
        holder.data = data


def make_absolute(config: "TrainerConfig") -> None:
    """Let a configuration name its dataset from wherever it is read."""
    for holder in _holders(config):
        if (data := absolute(holder.data)) is not None:
            holder.data = data


def _holders(config: "TrainerConfig") -> Iterator[Any]:
    """What of a configuration names a dataset."""
    datamanager: Any = config.pipeline.datamanager
    for holder in (config, datamanager, getattr(datamanager, "dataparser", None)):
        if hasattr(holder, "data"):
            yield holder


def _moved(path: Path, folder: Path, began: Path, own: Path) -> Iterator[Path]:
    """Where `path` may have been moved to together with the run."""
    folder = Path(os.path.abspath(folder))
    if path.is_absolute() and began.is_absolute():
        yield Path(os.path.normpath(folder / os.path.relpath(path, began)))
    elif not path.is_absolute() and not own.is_absolute() and folder.parts[-len(own.parts) :] == own.parts:
        yield Path(*folder.parts[: -len(own.parts)]) / path  # from where the run was started
