"""`pds import-ply`: Gaussians of any tool become a splatfacto run that every other command takes.

a file of splats + a dataset ─► config.yml, nerfstudio_models/step-000000000.ckpt ─► ns-train …-edit-splat --load-dir
"""

import copy
import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import file_name, require_writable, written
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.next_steps import after_reconstruction, say_next
from pds_nerfstudio.runs import point_latest_at
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.scenes.gaussians import Splats


@dataclass
class ImportPly:
    """Make a splatfacto run from a file of Gaussian splats and a dataset that has the cameras to edit it from."""

    ply: Annotated[Path, tyro.conf.Positional]
    """The file: a .ply from nerfstudio, Kerbl et al.'s code, or any tool that writes their layout; SuperSplat's
    compressed .ply; .spz; .splat."""
    data: Path
    """The dataset: a folder with nerfstudio's transforms.json, with images and COLMAP's sparse/0, or of another kind
    that nerfstudio reads."""
    dataparser: str | None = None
    """What reads the dataset, by `ns-train`'s names (nerfstudio-data, colmap, blender-data, …); by default, told by
    what lies in its folder."""
    frame: Literal["auto", "scene", "dataset", "poses"] = "auto"
    """In which coordinates the file is: nerfstudio's scene, as `ns-export` writes it; the dataset's own, as tools that
    read COLMAP's files write it; or those that transforms.json has its poses in. By default, those in which a few
    renderings look like the photographs."""
    background_color: Literal["random", "white", "black"] = "random"
    """Background of the scene, which a .ply does not hold. "random" is splatfacto's own: grey in every picture."""
    output_dir: Path = Path("outputs")
    """Folder that the new run goes to."""
    experiment_name: str | None = None
    """Name of the run's folder; by default that of the dataset."""

    def run(self) -> None:
        """Write the run and say how to edit it."""
        run, count = self.import_run()
        console = Console(soft_wrap=True)
        console.print(f"{count} Gaussians imported to {in_rich(run)}.")
        say_next(console, after_reconstruction(run))

    def import_run(self) -> tuple[Path, int]:
        """The new run's folder, and how many Gaussians are in it.

        Raises:
            UserError: the file or the dataset cannot be read, or the Gaussians are not where the cameras look.
        """
        for path, flag in ((self.ply, "the file"), (self.data, "--data")):
            if not path.exists():
                raise UserError(f"{flag} {path} does not exist: give a path that does.")
        name = self.experiment_name or self.data.resolve().name
        try:
            file_name(name)
        except ValueError as error:
            raise UserError(f"--experiment-name: {error}.") from error
        require_writable(self.output_dir, "--output-dir", room=max(1 << 20, 2 * self.ply.stat().st_size))
        from pds_nerfstudio.scenes.formats.splat_files import read_splats

        splats, broken = read_splats(self.ply)
        if broken:
            Console().print(f"[yellow]{broken} Gaussians with values that are not finite are left out.")

        import torch
        from nerfstudio.configs.base_config import LoggingConfig

        from pds_nerfstudio.methods import METHODS
        from pds_nerfstudio.scenes.dataparsers import dataparser_of, parse
        from pds_nerfstudio.scenes.splatfacto import FEW

        config: Any = copy.deepcopy(METHODS["source-splatfacto"].config)
        config.logging = LoggingConfig()
        config.output_dir, config.experiment_name = self.output_dir, name
        config.pipeline.datamanager.dataparser = dataparser_of(self.data, self.dataparser)
        config.data = config.pipeline.datamanager.data = self.data
        config.pipeline.model.sh_degree = splats.sh_degree
        config.pipeline.model.rasterize_mode = "antialiased" if splats.antialiased else "classic"
        config.pipeline.model.background_color = self.background_color
        parsed = parse(config.pipeline.datamanager.dataparser)

        def model_of(splats: "Splats", background: str, device: str = "cpu") -> Any:
            few = dataclasses.replace(config.pipeline.model, num_random=FEW, background_color=background)
            model = few.setup(scene_box=parsed.scene_box, num_train_data=len(parsed.cameras), metadata=parsed.metadata)
            model.load_state_dict({f"gauss_params.{k}": v for k, v in splats.state_dict().items()}, strict=False)
            return model.to(device)

        splats = self._in_scene(splats, parsed, model_of)
        config.set_timestamp()
        run, models = config.get_base_dir(), config.get_checkpoint_dir()
        models.mkdir(parents=True)
        config.save_config()
        parsed.save_dataparser_transform(run / "dataparser_transforms.json")
        parameters = model_of(splats, self.background_color).state_dict()
        state = {f"_model.{name}": value for name, value in parameters.items()}
        with written(models / "step-000000000.ckpt") as path:
            torch.save({"step": 0, "pipeline": state, "optimizers": {}, "schedulers": {}, "scalers": {}}, path)
        point_latest_at(run, self.output_dir)
        return run, len(splats.means)

    def _in_scene(self, splats: "Splats", parsed: Any, model_of: Any) -> "Splats":
        """The Gaussians in the coordinates of nerfstudio's scene.

        Raises:
            UserError: the dataset has no such frame, its cameras do not see them, or no frame fits its photographs.
        """

        from pds_nerfstudio.scenes.frame import SEEN, choose_frame, frames_of, share_seen

        if self.frame == "auto":
            device = default_device()
            frames = frames_of(parsed, self.data, as_stored=splats.of_spz)
            tried = partial(model_of, background="black", device=device)
            splats, sentence = choose_frame(splats, frames, parsed, tried, self.ply)
            Console(soft_wrap=True, highlight=False).print(in_rich(sentence))
            return splats
        by_name = {frame.name: frame for frame in frames_of(parsed, self.data, distinct=False)}
        if self.frame not in by_name:
            raise UserError(f"--frame poses: {self.data} has no applied_transform, and poses and dataset are the same.")
        frame = by_name[self.frame]
        splats = splats.moved(frame.transform, frame.scale) if self.frame != "scene" else splats
        if (seen := share_seen(splats.means, parsed.cameras)) < SEEN:
            raise UserError(
                f"The dataset's cameras see {seen:.0%} of the Gaussians of {self.ply}: they are of another scene, or "
                "in other coordinates (--frame)."
            )
        return splats
