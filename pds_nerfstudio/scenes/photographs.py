"""The photographs that somebody means who names image files, a folder of them, a dataset or a run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.quiet import leave_out_remarks
from pds_nerfstudio.runs import require_run

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Photographs:
    """Image files, and where in a command line of nerfstudio they belong."""

    paths: tuple[Path, ...]
    run: Path | None = None
    """The run's folder, where one was named."""
    family: str | None = None
    """Of that run: "nerfacto" or "splatfacto"."""
    data: Path | None = None
    """The dataset's folder, where one was named."""
    cameras: Any = None
    """What a prior that takes cameras is told of them, [photographs 4 4]; None where nothing is known."""

    @property
    def stored(self) -> bool:
        """Whether they are a scene's, whose cameras are those of the pixels as they are stored."""
        return self.run is not None or self.data is not None


def find_photographs(inputs: Sequence[Path], views: Sequence[int] | None = (0,)) -> Photographs:
    """Resolve `inputs`: image files, or one folder: a nerfstudio run, a dataset with a transforms.json, or of images.

    Args:
        views: which of a folder's (training) photographs to take, counted from 0; None for all. Image files are all
            taken.

    Raises:
        UserError: nothing is there, nothing of it is an image, or there is no such view.
    """
    inputs = require_there(inputs)
    if all(path.suffix.lower() in SUFFIXES for path in inputs):
        return Photographs(tuple(inputs))
    if len(inputs) > 1:
        raise UserError(
            f"{next(p for p in inputs if p.suffix.lower() not in SUFFIXES)} is no image ({', '.join(SUFFIXES)}): name "
            "image files, or one dataset's folder or run's."
        )
    (path,) = inputs
    if _is_run(path):
        from pds_nerfstudio.scenes.source import find_run

        run = find_run(path)
        data = run.data
        if data is None or not data.exists():
            raise UserError(
                f"The dataset {data} of {run.config_path.parent} is not there (a relative path counts from where the "
                "run was started): name the dataset's folder instead of the run's."
            )
        files, cameras = _training_images(run.dataparser_config, data)
        return Photographs(_chosen(files, views, path), run.config_path.parent, run.family, None, _of(cameras, views))
    if path.name == "transforms.json" or (path / "transforms.json").is_file():
        from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

        files, cameras = _training_images(NerfstudioDataParserConfig(), path)
        return Photographs(_chosen(files, views, path), data=path, cameras=_of(cameras, views))
    files = sorted(filter(_is_photograph, path.iterdir())) if path.is_dir() else []
    return Photographs(_chosen(files, views, path))


def require_there(inputs: Sequence[Path]) -> list[Path]:
    """The same without ~. Raises UserError where one of them is not there, or is a run that cannot be read."""
    inputs = [Path(path).expanduser() for path in inputs]
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path} does not exist: name image files, a dataset's folder or a run's.")
    if len(inputs) == 1 and inputs[0].suffix.lower() not in SUFFIXES and _is_run(inputs[0]):
        require_run(inputs[0])
    return inputs


def _is_photograph(path: Path) -> bool:
    """Whether a file in a folder of photographs is one, and none that a system hides there, such as ._name.jpg."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _is_run(path: Path) -> bool:
    """Whether a path is a run's folder, its checkpoints' or its config.yml. Other tools write a config.yml as well."""
    if (path / "transforms.json").is_file():
        return False
    folder = path.parent if any(path.glob("step-*.ckpt")) else path
    return path.name == "config.yml" or (folder / "config.yml").is_file()


def _training_images(dataparser: Any, data: Path) -> tuple[list[Path], Any]:
    """Their files, and what `viewpoints` makes of their cameras."""
    from pds_nerfstudio.scenes.dataset import STUMBLES
    from pds_nerfstudio.scenes.viewpoints import capture_of

    leave_out_remarks()
    dataparser.data = data
    try:
        outputs = _outputs(dataparser)
    except (ValueError, *STUMBLES) as error:
        raise UserError(
            f"The dataset {data} cannot be read ({' '.join(str(error).split())[:160]}): check it."
        ) from error
    capture = capture_of(outputs.cameras)
    return [Path(path) for path in outputs.image_filenames], None if capture is None else capture.matrices()


def _outputs(dataparser: Any) -> Any:
    """Its training split; of photographs that were all taken from one place, as of a single one, not scaled to size."""
    try:
        return dataparser.setup().get_dataparser_outputs("train")
    except ZeroDivisionError:  # nerfstudio divides by the distance to the outermost camera
        dataparser = dataclasses.replace(dataparser, auto_scale_poses=False)
        return dataparser.setup().get_dataparser_outputs("train")


def _of(cameras: Any, views: Sequence[int] | None) -> Any:
    return cameras if cameras is None or views is None else cameras[list(views)]


def _chosen(files: Sequence[Path], views: Sequence[int] | None, where: Path) -> tuple[Path, ...]:
    if not files:
        raise UserError(f"There are no images in {where}: name image files, a dataset's folder or a run's.")
    if views is None:
        return tuple(files)
    for view in views:
        if not 0 <= view < len(files):
            raise UserError(f"{where} has no view {view}: --views counts its {len(files)} images from 0.")
    return tuple(files[view] for view in views)
