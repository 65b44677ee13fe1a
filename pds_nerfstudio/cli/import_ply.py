"""`pds import-ply`: Gaussians of any tool become a splatfacto run that every other command takes.

.ply + a nerfstudio dataset ─► config.yml, nerfstudio_models/step-000000000.ckpt ─► ns-train …-edit-splat --load-dir
"""

import copy
import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import file_name, require_writable, written
from pds_nerfstudio.text import in_rich, printable

SEEN = 0.05
"""At least this share of the Gaussians lies in some training view, or the two are not of one scene."""


@dataclass
class ImportPly:
    """Make a splatfacto run of a .ply of Gaussian splats and a dataset with the cameras to edit it from."""

    ply: Annotated[Path, tyro.conf.Positional]
    """The file: from nerfstudio, Kerbl et al.'s code, or any tool that writes their layout."""
    data: Path
    """The dataset: a folder with nerfstudio's transforms.json."""
    frame: Literal["auto", "scene", "dataset"] = "auto"
    """In which coordinates the file is: nerfstudio's scene, as `ns-export` writes it, or those of the dataset's poses,
    as other tools do; by default, by who wrote the file."""
    background_color: Literal["random", "white", "black"] = "random"
    """Of the scene; a .ply does not tell. "random" is splatfacto's own: grey in every picture."""
    output_dir: Path = Path("outputs")
    """Where runs go."""
    experiment_name: str | None = None
    """Name of the run's folder; by default that of the dataset."""

    def run(self) -> None:
        """Write the run and say how to edit it."""
        run, count = self.import_run()
        console = Console(soft_wrap=True)
        console.print(f"{count} Gaussians imported to {in_rich(run)}. To edit them:")
        line = shlex.join(["ns-train", "pds-edit-splat", "--load-dir", str(run / "nerfstudio_models")])
        console.print(f"{printable(line)} --pipeline.src-prompt … --pipeline.tgt-prompt …", markup=False)

    def import_run(self) -> tuple[Path, int]:
        """The new run's folder, and how many Gaussians are in it.

        Raises:
            UserError: the file or the dataset cannot be read, or the Gaussians are not where the cameras look.
        """
        from pds_nerfstudio.scenes.splat_files import read_splats

        for path, flag in ((self.ply, "the .ply"), (self.data, "--data")):
            if not path.exists():
                raise UserError(f"{flag} {path} does not exist: give a path that does.")
        name = self.experiment_name or self.data.resolve().name
        try:
            file_name(name)
        except ValueError as error:
            raise UserError(f"--experiment-name: {error}.") from error
        require_writable(self.output_dir, "--output-dir", room=max(1 << 20, 2 * self.ply.stat().st_size))
        splats, broken = read_splats(self.ply)
        if broken:
            Console().print(f"[yellow]{broken} Gaussians with values that are not finite are left out.")

        import torch
        from nerfstudio.configs.base_config import LoggingConfig

        from pds_nerfstudio.methods import METHODS

        config: Any = copy.deepcopy(METHODS["source-splatfacto"].config)
        config.logging = LoggingConfig()
        config.output_dir, config.experiment_name = self.output_dir, name
        config.data = config.pipeline.datamanager.data = config.pipeline.datamanager.dataparser.data = self.data
        config.pipeline.model.sh_degree = splats.sh_degree
        config.pipeline.model.background_color = self.background_color
        try:
            parsed = config.pipeline.datamanager.dataparser.setup().get_dataparser_outputs("train")
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise UserError(f"--data {self.data} is no nerfstudio dataset ({error}): give one.") from error
        if self.frame == "dataset" or (self.frame == "auto" and not splats.of_nerfstudio):
            splats = splats.moved(parsed.dataparser_transform, parsed.dataparser_scale)
        _require_seen(splats.means, parsed.cameras, self.ply)

        config.set_timestamp()
        run, models = config.get_base_dir(), config.get_checkpoint_dir()
        models.mkdir(parents=True)
        config.save_config()
        parsed.save_dataparser_transform(run / "dataparser_transforms.json")
        few = dataclasses.replace(config.pipeline.model, num_random=8)
        model = few.setup(scene_box=parsed.scene_box, num_train_data=len(parsed.cameras), metadata=parsed.metadata)
        model.load_state_dict({f"gauss_params.{k}": v for k, v in splats.state_dict().items()}, strict=False)
        state = {f"_model.{name}": value for name, value in model.state_dict().items()}
        with written(models / "step-000000000.ckpt") as partial:
            torch.save({"step": 0, "pipeline": state, "optimizers": {}, "schedulers": {}, "scalers": {}}, partial)
        return run, len(splats.means)


def _require_seen(means: Any, cameras: Any, ply: Path) -> None:
    import torch

    from pds_nerfstudio.scenes.hull import project

    seen = torch.zeros(len(means), dtype=torch.bool)
    for i in range(len(cameras)):
        place, depth = project(cameras[i : i + 1], means)
        size = torch.stack([cameras.width[i], cameras.height[i]], dim=-1)
        seen |= ((place >= 0) & (place < size)).all(-1) & (depth > 0)
    if seen.float().mean() < SEEN:
        raise UserError(
            f"The dataset's cameras see {seen.float().mean():.0%} of the Gaussians of {ply}: they are of another "
            "scene, or in other coordinates (--frame)."
        )
