"""nerfstudio's runs, told from their files alone: what each is, how far it is, and whether it can go on.

    OUTPUTS/EXPERIMENT/METHOD/TIME_WORDS/config.yml, nerfstudio_models/step-*.ckpt
    OUTPUTS/latest ─► the run that has last written a checkpoint

Neither torch nor nerfstudio is imported, so a run that is not there is refused at once, and hundreds are listed in
seconds. `scenes.source` opens what is found here.
"""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pds_nerfstudio.alive import is_running
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import private_folder
from pds_nerfstudio.run_yaml import Settings, read_plain
from pds_nerfstudio.scenes.places import lies_now

CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")
BY_CLOCK = re.compile(r"\d{4}-\d\d-\d\d_\d{6}")
"""How the name of a run's folder begins where --timestamp gave no other."""
LATEST = "latest"
"""The link in a folder of runs."""
DEEPEST = 8
"""Levels of folders below OUTPUTS in which runs are looked for."""
FAMILY_OF: dict[str, Literal["nerfacto", "splatfacto"]] = {
    "NerfactoModelConfig": "nerfacto",
    "NerfactoSceneConfig": "nerfacto",
    "SplatfactoModelConfig": "splatfacto",
    "SplatfactoSceneConfig": "splatfacto",
}
"""By the names of their settings' classes; `scenes.families` knows subclasses too."""


@dataclass(frozen=True)
class Run:
    """A run as its files have it."""

    config_path: Path
    config: Settings
    checkpoints: dict[int, Path]
    """By the step at which each was written."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.config_path.parent

    @property
    def models(self) -> Path:
        """The folder of its checkpoints, as its configuration has it."""
        return self.folder / self.config["relative_model_dir"]

    @property
    def method(self) -> str:
        """What `ns-train` was told."""
        return self.config["method_name"]

    @property
    def family(self) -> Literal["nerfacto", "splatfacto"] | None:
        """The family of its scene; None where only nerfstudio can tell."""
        return FAMILY_OF.get(self._pipeline["model"].kind.rpartition(".")[2])

    @property
    def is_edit(self) -> bool:
        """Whether it is a run of one of this package's editing methods."""
        return "tgt_prompt" in self._pipeline

    @property
    def prompts(self) -> tuple[str, str]:
        """Source and target prompt; empty where it is no edit."""
        source, target = (self._pipeline.get(name) for name in ("src_prompt", "tgt_prompt"))
        return str(source or ""), str(target or "")

    @property
    def last(self) -> int:
        """The step of its last checkpoint."""
        return max(self.checkpoints)

    @property
    def steps_done(self) -> int:
        """Steps in its last checkpoint."""
        return self.last + 1 if self.checkpoints else 0

    @property
    def steps(self) -> int:
        """Steps that it was to have."""
        steps = self.config.get("max_num_iterations")
        return steps if isinstance(steps, int) else 0

    @property
    def base(self) -> Path | None:
        """Of an edit, the run that it began with, where that lies now."""
        base = self._of_run("base")
        if not isinstance(base, str | Path) or Path(base) == Path():
            return None
        place = self._lies_now(Path(base))
        return place.parent if place.name == "config.yml" else place

    @property
    def began_with(self) -> Path | None:
        """The folder of the run whose checkpoint it began with, where that lies now."""
        given = self.config.get("load_dir")
        if not isinstance(given, Path) or given == Path():
            return None
        place = self._lies_now(given)
        return place.parent if place.name == self.models.name else place

    def goes_on_with(self, other: "Run") -> bool:
        """Whether it is what an interrupted run went on as; an edit of an edit is not."""
        alike = self.method == other.method and self.base == other.base
        return alike and self.began_with is not None and self.began_with.resolve() == other.folder.resolve()

    @property
    def has_source(self) -> bool:
        """Of an edit, whether the scene before is there: carried along, or where it was."""
        return (self.folder / "source.pt").is_file() or (self.base is not None and self.base.exists())

    @property
    def data(self) -> Path | None:
        """The dataset, where it lies now."""
        datamanager = self._pipeline["datamanager"]
        for holder in (datamanager, datamanager.get("dataparser"), self.config):
            data = holder.get("data") if isinstance(holder, dict) else None
            if isinstance(data, str | Path) and Path(data) != Path():
                return self._lies_now(Path(data))
        return None

    @property
    def touched(self) -> float:
        """When it was last written to, in seconds since 1970."""
        return max(_written_at(path) for path in (self.config_path, *self.checkpoints.values()))

    def obstacle(self) -> str | None:
        """Why it cannot go on; None where it can."""
        if self.checkpoints and self.steps_done >= self.steps:
            return "finished"
        if is_running(self.folder):
            return "running now"
        if not self.checkpoints:
            return "no checkpoint yet"
        if self.is_edit and not self.has_source:
            return f"its source {self.base} is gone"
        if self.data is None or not self.data.exists():
            return f"its dataset {self.data} is gone"
        return None

    @property
    def _pipeline(self) -> Settings:
        return self.config["pipeline"]

    def _of_run(self, name: str) -> Any:
        """A setting of the group `run`; runs of 0.1.0 have them beside the others."""
        group = self._pipeline.get("run")
        return (group if isinstance(group, dict) else self._pipeline).get(name)

    def _lies_now(self, path: Path) -> Path:
        parts = (self.config.get(name) for name in ("output_dir", "experiment_name", "method_name", "timestamp"))
        own = Path(*(str(part) for part in parts if part is not None))
        made_in = self.config.get("made_in")
        return lies_now(path, self.folder, made_in if isinstance(made_in, Path) else own, own)


def find_config(load_dir: Path, called: str = "--load-dir") -> Path:
    """The `config.yml` of the run that `load_dir` belongs to; see `require_run`."""
    load_dir = behind_latest(Path(load_dir).expanduser())
    if not load_dir.exists():
        raise UserError(f"{called} {load_dir} does not exist: give the folder of a finished run (pds runs lists them).")
    folder = load_dir.parent if load_dir.is_file() else result_of_edit(load_dir)
    found = next((path for path in (folder / "config.yml", folder.parent / "config.yml") if path.is_file()), None)
    if found is None:
        raise UserError(
            f"{called} {load_dir} has no config.yml in it or beside it, so it is no run: {_instead(load_dir)}"
        )
    return found


def _instead(folder: Path) -> str:
    """What to give for a folder that is no run: the last run below it, or what a dataset becomes."""
    below = sorted(runs_below(folder, 3), key=_written_at)
    if below:
        return f"did you mean the last one below it, {below[-1].parent}?"
    data = shlex.quote(str(folder)) if (folder / "transforms.json").is_file() else "DATA"
    return (
        "give the folder of one (pds runs lists them). A dataset is reconstructed first, by ns-train source-splatfacto "
        f"--data {data}."
    )


def result_of_edit(folder: Path) -> Path:
    """Of a folder that `pds edit` has written, the last of its runs with a checkpoint; any other folder itself."""
    if (folder / "config.yml").is_file() or not (folder / "edit.json").is_file():
        return folder
    runs = [path for stage in ("refinement", "edit") for path in sorted(folder.glob(f"{stage}/*/run"))]
    return next((run for run in runs if any(run.glob("*/step-*.ckpt"))), folder)


def place_beside(given: Path, run: Path, name: str) -> Path:
    """Where something of that name that is made of a run goes by default: into the folder of `pds edit` where that was
    given, else into the run's."""
    given = behind_latest(given.expanduser())
    return (given if result_of_edit(given) != given else run) / name


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by their steps."""
    files = folder.glob("step-*.ckpt")
    return {int(match[1]): path for path in files if (match := CHECKPOINT.fullmatch(path.name))}


def chosen_step(folder: Path, checkpoints: dict[int, Path], load_step: int | None) -> int:
    """The step that was asked for, or the latest.

    Raises:
        UserError: there is no such checkpoint in `folder`.
    """
    if not checkpoints:
        raise UserError(
            f"{folder} holds no checkpoint (step-*.ckpt): let the run reach its first save, or choose another."
        )
    if load_step is not None and load_step not in checkpoints:
        there = ", ".join(map(str, sorted(checkpoints)))
        raise UserError(f"{folder} has no checkpoint of step {load_step}, only of {there}.")
    return max(checkpoints) if load_step is None else load_step


def require_run(load_dir: Path, load_step: int | None = None, called: str = "--load-dir") -> Run:
    """The run that `load_dir` belongs to, refused here where its files say that it cannot be opened.

    Args:
        load_dir: a run's folder, the `nerfstudio_models` folder in it, or its `config.yml`.
        load_step: the step whose checkpoint is wanted; any by default.
        called: what messages call `load_dir`.

    Raises:
        UserError: a folder, config or checkpoint is missing, or the config cannot be read.
    """
    config_path = find_config(load_dir, called)
    given = behind_latest(Path(load_dir).expanduser())
    run = read_run(config_path, given if any(given.glob("step-*.ckpt")) else None)
    chosen_step(run.models, run.checkpoints, load_step)
    return run


def require_pair(
    folder: Path,
    step: int | None = None,
    source: Path | None = None,
    data: Path | None = None,
    compared: bool = True,
) -> None:
    """Refuse what `evaluation.before_after.plan_pair` would refuse, as far as files tell; its arguments.

    Raises:
        UserError: a run, the scene before the edit or the dataset is not there, or `folder` is no edit.
    """
    run = require_run(folder, step, called="The run")
    if source is not None:
        require_run(source, called="--source")
    elif compared and run.base is None:
        raise no_edit(run.folder, run.method)
    elif compared and run.base is not None and not run.has_source:
        raise source_gone(run.folder, run.base)
    place = run.data if data is None else data
    if place is not None and not place.exists():
        raise data_gone(run.folder, place)


def no_edit(folder: Path, method: str) -> UserError:
    """What is wrong with a run that there is nothing to compare with."""
    return UserError(
        f"{folder} is a run of {method}, which is no edit: give the folder of an edited run, or name what to compare "
        "it with by --source."
    )


def source_gone(folder: Path, base: Path | None) -> UserError:
    """What is wrong with an edit whose scene before has moved."""
    return UserError(f"The scene that {folder} was edited from is not at {base} any more: name it with --source.")


def data_gone(folder: Path, data: Path | None, flag: str = "--data") -> UserError:
    """What is wrong with a run whose dataset has moved."""
    return UserError(f"The dataset {data} of {folder} is not there: name it with {flag}.")


def read_run(config_path: Path, models: Path | None = None) -> Run:
    """A run by its `config.yml`, with the checkpoints in `models` or where it says.

    Raises:
        UserError: it cannot be read.
    """
    config = read_plain(config_path)
    folder = config_path.parent / config["relative_model_dir"] if models is None else models
    return Run(config_path, config, checkpoints_in(folder))


def runs_below(folder: Path, deepest: int = DEEPEST) -> Iterator[Path]:
    """Every `config.yml` that lies in a folder of its own; links are not followed, and no run is looked for in one."""
    with suppress(OSError):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if any(entry.name == "config.yml" and entry.is_file() for entry in entries):
            yield folder / "config.yml"
        elif deepest > 0:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    yield from runs_below(folder / entry.name, deepest - 1)


def behind_latest(path: Path) -> Path:
    """The same place under its own name where it is named by a link `latest`, which will lead elsewhere tomorrow."""
    for place in (path, *path.parents):
        if place.name == LATEST and place.is_symlink():
            return place.parent / os.readlink(place) / path.relative_to(place)
    return path


def point_latest_at(run: Path, outputs: Path) -> None:
    """Let the link `latest` in a folder of runs lead to one of them.

    Whatever else goes by that name is left alone, and where no link can be made there is none.
    """
    link, target = outputs / LATEST, os.path.relpath(run, outputs)
    if target.startswith("..") or (os.path.lexists(link) and not _is_ours(link)):
        return
    with suppress(OSError, NotImplementedError), private_folder(link) as folder:
        (folder / LATEST).symlink_to(target, target_is_directory=True)
        os.replace(folder / LATEST, link)


def _is_ours(link: Path) -> bool:
    """Whether it is a link that `point_latest_at` may have made: to a run below it, which may be gone."""
    if not link.is_symlink():
        return False
    target = Path(os.readlink(link))
    below = not target.is_absolute() and ".." not in target.parts and len(target.parts) == 3
    return below and (not link.exists() or (link / "config.yml").is_file())


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
