"""One trial: a toybox edit, run through `ns-train` itself and compared with its ground truth.

The settings here are for 64-pixel scenes on two CPU cores; on a real scene the methods' own defaults apply.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.scripts import train as ns_train

from pds_nerfstudio.evaluation import renders
from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.evaluation.benchmark import SHOWN, Benchmark
from pds_nerfstudio.evaluation.consistency import view_consistency
from pds_nerfstudio.evaluation.measure import load_judges
from pds_nerfstudio.evaluation.metrics import ClipScorer
from pds_nerfstudio.evaluation.rows import of_family
from pds_nerfstudio.evaluation.truth import Comparison, Pictures
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.objectives.sdedit import SDEdit
from pds_nerfstudio.pictures import Images, read_images
from pds_nerfstudio.pipelines.command_line import Given
from pds_nerfstudio.pipelines.distillation import DistillationConfig
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.refine import RefineConfig
from pds_nerfstudio.pipelines.settings_tree import changed
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.recipe import recipe_of
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.scenes.families import render, scene_of
from pds_nerfstudio.scenes.paths import camera_path
from pds_nerfstudio.scenes.scene import Family
from pds_nerfstudio.scenes.shots import shoot, shown_camera
from pds_nerfstudio.scenes.views import eval_views, train_views
from pds_nerfstudio.toybox.dataset import read_geometry, read_poses, write_edit
from pds_nerfstudio.toybox.render import render as render_toybox
from pds_nerfstudio.toybox.render import toybox_matrices
from pds_nerfstudio.toybox.spec import ToyEdit


@dataclass(frozen=True)
class TrialSettings:
    """How a toybox scene is reconstructed and edited. What is None is as the prior's recipe says."""

    reconstruction_steps: int
    edit_steps: int | None = None
    """Of an edit, all of them; where a method refines as well, the last quarter. A refinement after it has its own."""
    guidance_scale: float | None = None
    """Of an edit by distillation."""

    def given(self, method: str) -> dict[str, Any]:
        """What an edit is told of these, by the names of `ns-train`'s flags."""
        config = METHODS[method].config.pipeline
        named: dict[str, Any] = {}
        if not isinstance(config, RefineConfig):
            named["max_num_iterations"] = self.edit_steps
        if isinstance(config, DistillationConfig):
            named["pipeline.objective.guidance_scale"] = self.guidance_scale
        return {name: value for name, value in named.items() if value is not None}


SETTINGS: dict[Family | Literal["2d"], TrialSettings] = {
    "2d": TrialSettings(reconstruction_steps=0, edit_steps=500),
    "splatfacto": TrialSettings(reconstruction_steps=600),
    "nerfacto": TrialSettings(reconstruction_steps=1000),
}

SIDES = ("source", "target")
LARGE = 256
"""Shorter side in pixels of pictures that are looked at."""
SPLAT_RATES = {"means": 1e-3, "features_dc": 0.02}
"""Learning rates of splats that train on images: splatfacto's own are for 30,000 steps."""

KNOWN_GUIDANCE = 2.0
"""Of the true pictures that the prior draws again: more of it costs fidelity."""

NERF_RATE = 3e-3
"""Learning rate of a toybox NeRF's field. At nerfacto's 1e-2 its small torch networks tie colour channels together: a
man's head comes out grey, 25.4 instead of 31.4 dB after 1000 steps."""


def reconstruct(
    family: Family, data: Path, out: Path, steps: int, seed: int, changes: Mapping[str, Any] | None = None
) -> Path:
    """Train `source-<family>` on a toybox dataset; returns the run's `config.yml`.

    Args:
        changes: settings of the method, by the names of `ns-train`'s flags: "pipeline.model.far_plane".
    """
    config = headless(f"source-{family}", out, seed, steps)
    config.experiment_name = "source"
    config.pipeline.datamanager.data = data
    model: Any = config.pipeline.model
    model.background_color = "white"
    if family == "splatfacto":
        model.sh_degree = 0  # Lambertian but for a highlight: what an edit paints then looks the same from everywhere
        model.num_downscales = 0
        model.warmup_length = steps  # the sparse points are dense enough
        for group, rate in SPLAT_RATES.items():
            config.optimizers[group]["optimizer"].lr = rate
    else:
        _shrink_nerfacto(config)
    return train(changed(config, changes or {}))


def run_edit(
    method: str,
    source: Path,
    edit: ToyEdit,
    out: Path,
    settings: TrialSettings,
    seed: int,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Train an edit method on a reconstructed toybox scene; returns the edited run's `config.yml`.

    Args:
        changes: settings of the method, by the names of `ns-train`'s flags: "pipeline.objective.regularisation".
    """
    given = {"pipeline.prior": "toybox"} | settings.given(method) | dict(changes or {})
    config: Any = changed(edit_config(method, source, edit, out, seed), given)
    config.given = Given(set(given))  # also what is given the method's own value
    return train(config)


def compare(edit: ToyEdit, scene: Path, source: Path, edited: Path, step: int | None = None) -> Comparison:
    """An edit against its ground truth.

    Args:
        edit: what was asked for.
        scene: the folder that `toybox.dataset.write_edit` wrote.
        source, edited: the two runs' `config.yml`.
        step: which checkpoint of the edited run; the latest by default.
    """
    before, after = load_run(source), load_run(edited, step)
    names = [Path(name).name for name in eval_views(before.datamanager).names]
    return against_truth(edit, scene, names, render_eval_views(before), render_eval_views(after))


def against_truth(
    edit: ToyEdit, scene: Path, names: Sequence[str], source_render: Images, edited_render: Images
) -> Comparison:
    """Pictures of an edit, before and after, against the photographs of those names in the two scenes."""
    photographs = (read_images([scene / side / "images" / name for name in names]) for side in SIDES)
    pictures = Pictures(source_render, edited_render, *photographs)
    objects = read_images([scene / "target" / "object_masks" / name for name in names])[:, 0]
    depth, cameras = read_geometry(scene / "target", names)
    consistency = view_consistency(edited_render, depth, cameras, pictures.changed).nanmean()
    numbers = {
        **pictures.numbers(objects, load_judges("toybox", ["toybox"]).distance),
        **pictures.by_words(ClipScorer.load(), edit, [spec.prompt(floor=False) for spec in edit.alternatives()]),
        "view_consistency": float(consistency),
    }
    return Comparison(edit, source_render, edited_render, pictures.target, numbers)


@torch.no_grad()
def to_look_at(
    edit: ToyEdit, scene: Path, source: Path, edited: Path, which: Sequence[int] | None = None
) -> tuple[Images, Images, Images]:
    """Held-out views before the edit, after it, and as they should be: larger than what is measured, where scenes may
    be shown larger than their photographs.

    Args:
        which: of these views; of all by default.
    """
    before, after = load_run(source), load_run(edited)
    views = eval_views(before.datamanager)
    which = range(len(views)) if which is None else which
    shown = [shown_camera(views, i, LARGE, before.model) for i in which]
    was, became = (torch.stack([shoot(run.model, *one).image for one in shown]) for run in (before, after))
    cameras = read_poses(scene / "target", [views.names[i] for i in which])
    height, width = int(shown[0][0].height), int(shown[0][0].width)
    truth = render_toybox(edit.target, cameras, height, width).image.movedim(-1, 1)
    return was, became, truth


def seen_from(prior: StableDiffusionPrior, side: Path, names: Sequence[str]) -> Viewpoints | None:
    """From where a written scene's photographs are seen, as a prior that takes cameras is told it."""
    return Viewpoints(toybox_matrices(read_poses(side, names))) if prior.takes_cameras else None


@torch.no_grad()
def drawn_again(
    side: Path, names: Sequence[str], prompt: str, strength: float, seed: int, named: str = "toybox"
) -> Images:
    """True pictures of what an edit asks for, noised and denoised under its target prompt (SDEdit), as large as before.

    Args:
        side: folder of the written scene that it should become.
        names: of its pictures.
        named: by which of the priors in this package, at the size that it was trained with.
    """
    prior = load_prior(named, default_device())
    pictures = read_images([side / "images" / name for name in names]).to(prior.device)
    size, small = pictures.shape[-2:], (prior.trained_size,) * 2
    x0 = prior.encode(resized(pictures, small))
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(x0)
    drawn = SDEdit(KNOWN_GUIDANCE, strength).edit(prior, x0, prompt, eps, seen_from(prior, side, names))
    return resized(prior.decode(drawn), size).cpu()


def resized(pictures: Images, size: Sequence[int]) -> Images:
    """Pictures at another height and width, none where they have it."""
    if tuple(pictures.shape[-2:]) == tuple(size):
        return pictures
    return F.interpolate(pictures, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)


def film(edit: ToyEdit, source: Path, edited: Path, path: Path) -> None:
    """One turn around the scene, before and after side by side."""
    before, after = load_run(source), load_run(edited)
    frames, size = scene_of(before.model).film
    views = train_views(before.datamanager)
    cameras = camera_path(views, "orbit", frames, size, size)
    labels = edit.source_prompt, edit.target_prompt
    renders.film(before.model, after.model, cameras, path, labels, times=size / min(views.size(0)))


@torch.no_grad()
def render_eval_views(pipeline: VanillaPipeline) -> Images:
    """All held-out views at the size of their photographs."""
    views = eval_views(pipeline.datamanager)
    return torch.cat([render(pipeline.model, views.camera(i, *views.size(i))).image.cpu() for i in range(len(views))])


def train(config: TrainerConfig) -> Path:
    """What `ns-train` does with this configuration; the run's `config.yml`."""
    ns_train.main(config)
    return config.get_base_dir() / "config.yml"


def headless(method: str, out: Path, seed: int, steps: int | None = None) -> TrainerConfig:
    """A method's own configuration, headless, with few checkpoints and nothing evaluated on the way."""
    config = copy.deepcopy(METHODS[method].config)
    config.output_dir = out / "runs"
    config.max_num_iterations = steps or config.max_num_iterations
    if not isinstance(config.pipeline, EditConfig):
        config.machine.seed = seed  # an edit has one of its own
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.steps_per_save = 200
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    return config


def edit_config(method: str, source: Path, edit: Any, out: Path, seed: int, steps: int | None = None) -> TrainerConfig:
    """A method's configuration for an edit of a run (its `config.yml`) by the prompts of `edit`."""
    config: Any = headless(method, out, seed, steps)
    config.experiment_name, config.history = "edited", "nothing"
    config.load_dir = source.parent / config.relative_model_dir
    pipeline: Any = config.pipeline
    pipeline.src_prompt, pipeline.tgt_prompt, pipeline.run.seed = edit.source_prompt, edit.target_prompt, seed
    return config


def _shrink_nerfacto(config: TrainerConfig) -> None:
    """A nerfacto that two cores can train: half the levels, fewer samples, small batches."""
    model: Any = config.pipeline.model
    model.num_levels, model.max_res, model.log2_hashmap_size = 8, 256, 15
    model.hidden_dim = model.hidden_dim_color = 32
    model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (64, 32), 24
    model.proposal_net_args_list = [
        {"hidden_dim": 16, "log2_hashmap_size": 14, "num_levels": 4, "max_res": res, "use_linear": False}
        for res in (64, 128)
    ]
    model.far_plane = 6.0
    config.optimizers["fields"]["optimizer"].lr = NERF_RATE
    datamanager: Any = config.pipeline.datamanager
    datamanager.train_num_rays_per_batch = 1024


class Toy(Benchmark):
    """Toybox scenes, whose edits have a known answer."""

    def prepare(self, edit: ToyEdit, folder: Path, seed: int) -> Path:
        self.write(edit, folder, seed)
        return self.reconstructed(folder, seed)

    def write(self, edit: ToyEdit, folder: Path, seed: int) -> None:
        """The scene and what it should become, in FOLDER/scene."""
        write_edit(edit, folder / "scene", seed=seed)

    def reconstructed(self, folder: Path, seed: int) -> Path:
        """The run of what was written, its `config.yml`."""
        steps = self.settings.reconstruction_steps
        return reconstruct(self.family, folder / "scene" / SIDES[0], folder, steps, seed)

    def ceiling(self, scenes: Path, out: Path, seed: int) -> Path:
        by_recipe = recipe_of("toybox").settings("pds-edit", self.family)
        steps = self.settings.reconstruction_steps + (self.settings.edit_steps or by_recipe["max_num_iterations"])
        return reconstruct(self.family, scenes / "scene" / SIDES[1], out, steps, seed)

    def known(self, edit: ToyEdit, scenes: Path, source: Path, strength: float, seed: int) -> Comparison:
        before = load_run(source)
        names = [Path(name).name for name in eval_views(before.datamanager).names]
        known = drawn_again(scenes / "scene" / SIDES[1], names, edit.target_prompt, strength, seed)
        return against_truth(edit, scenes / "scene", names, render_eval_views(before), known)

    def truth(self, edit: ToyEdit, scenes: Path) -> Path:
        return scenes / "scene" / SIDES[1] / "images" / f"test_{SHOWN:03d}.png"

    def edit(self, method: str, changes: Mapping[str, Any], source: Path, edit: ToyEdit, out: Path, seed: int) -> Path:
        return run_edit(of_family(method, self.family), source, edit, out, self.settings, seed, changes)

    def compare(self, edit: ToyEdit, scenes: Path, source: Path, edited: Path) -> Comparison:
        return compare(edit, scenes / "scene", source, edited)

    def to_look_at(
        self, edit: ToyEdit, scenes: Path, source: Path, edited: Path, compared: Comparison
    ) -> tuple[Images, Images, Images]:
        """See the function of that name."""
        return to_look_at(edit, scenes / "scene", source, edited)
