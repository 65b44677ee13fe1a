"""Toybox edits in two dimensions: the same objectives on bare latents of the held-out photographs.

What an objective does where there is no scene: every photograph may go its own way, nothing makes views agree. In place
of a scene stands a file of latents.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from pds_nerfstudio.evaluation.benchmark import SHOWN, Benchmark
from pds_nerfstudio.evaluation.rows import CEILING, KNOWN, NOTHING
from pds_nerfstudio.evaluation.trial import SIDES, against_truth, drawn_again, seen_from
from pds_nerfstudio.evaluation.truth import Comparison
from pds_nerfstudio.files import written
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import Latents
from pds_nerfstudio.objectives.cameras import Viewpoints
from pds_nerfstudio.pictures import read_images
from pds_nerfstudio.pipelines.distillation import ADAPTERS, DistillationConfig
from pds_nerfstudio.pipelines.image_edit import edit_latents
from pds_nerfstudio.pipelines.settings_tree import changed, read
from pds_nerfstudio.priors.load import load_prior
from pds_nerfstudio.priors.recipe import recipe_of
from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
from pds_nerfstudio.prompts import guess_ask
from pds_nerfstudio.toybox.dataset import write_edit
from pds_nerfstudio.toybox.spec import ToyEdit


def image_methods() -> list[str]:
    """Methods that are their objective alone: they neither perturb a scene nor replace its images."""
    edits = [name for name in METHODS if name.endswith("-edit")]
    return [name for name in edits if type(METHODS[name].config.pipeline) is DistillationConfig]


def held_out(scene: Path) -> list[str]:
    """Names of the photographs that are edited."""
    return sorted(path.name for path in (scene / SIDES[0] / "images").glob("test_*.png"))


def edit_by(
    config: Any,
    prior: StableDiffusionPrior,
    x0: Latents,
    prompts: tuple[str, str],
    steps: int,
    seed: int,
    cameras: Viewpoints | None = None,
) -> Latents:
    """Latents after an edit by the objective of a method's configuration, with its adapters' settings."""
    return edit_latents(
        prior,
        config.pipeline.objective,
        x0,
        *prompts,
        steps,
        seed,
        adapter_rank=read(config.pipeline, "adapter_rank"),
        adapter_warmup=read(config.pipeline, "adapter_warmup"),
        adapter_rate=config.optimizers[ADAPTERS]["optimizer"].lr if ADAPTERS in config.optimizers else None,
        cameras=cameras,
    )


class ImageTrial(Benchmark):
    """Held-out photographs of toybox scenes, edited as latents; source and ceiling are what the VAE makes of them.

    Of a method's settings only those of the objective and the adapters' rank, warm-up and rate mean anything here.
    """

    anchors: ClassVar = (NOTHING, CEILING, *KNOWN)  # no scene to perturb

    def methods(self, first: bool) -> list[str]:
        return image_methods()

    def prepare(self, edit: ToyEdit, folder: Path, seed: int) -> Path:
        write_edit(edit, folder / "scene", seed=seed)
        return _encoded(folder / "scene", SIDES[0], folder)

    def ceiling(self, scenes: Path, out: Path, seed: int) -> Path:
        return _encoded(scenes / "scene", SIDES[1], out)

    def truth(self, edit: ToyEdit, scenes: Path) -> Path:
        return scenes / "scene" / SIDES[1] / "images" / f"test_{SHOWN:03d}.png"

    def known(self, edit: ToyEdit, scenes: Path, source: Path, strength: float, seed: int) -> Comparison:
        scene, names = scenes / "scene", held_out(scenes / "scene")
        before = _prior().decode(_read(source)).cpu()
        known = drawn_again(scene / SIDES[1], names, edit.target_prompt, strength, seed)
        return against_truth(edit, scene, names, before, known)

    def edit(self, method: str, changes: Mapping[str, Any], source: Path, edit: ToyEdit, out: Path, seed: int) -> Path:
        config: Any = copy.deepcopy(METHODS[method].config)
        prior, prompts = _prior(), (edit.source_prompt, edit.target_prompt)
        found = recipe_of("toybox").settings(method, "2d", guess_ask(*prompts)) | self.settings.given(method)
        objective = {name: value for name, value in found.items() if name.startswith("pipeline.objective.")}
        config = changed(config, objective)
        x0 = _read(source).to(prior.device)
        scene = source.parent / "scene"
        cameras = seen_from(prior, scene / SIDES[0], held_out(scene))
        edited = edit_by(changed(config, changes), prior, x0, prompts, self.settings.edit_steps, seed, cameras)
        return _kept(edited, out / "edited.pt")

    def compare(self, edit: ToyEdit, scenes: Path, source: Path, edited: Path) -> Comparison:
        scene, prior = scenes / "scene", _prior()
        before, after = (prior.decode(_read(path)).cpu() for path in (source, edited))
        return against_truth(edit, scene, held_out(scene), before, after)


@torch.no_grad()
def _encoded(scene: Path, side: str, out: Path) -> Path:
    images = read_images([scene / side / "images" / name for name in held_out(scene)])
    return _kept(_prior().encode(images), out / f"{side}.pt")


def _prior() -> StableDiffusionPrior:
    return load_prior("toybox", default_device())


def _kept(x0: Latents, path: Path) -> Path:
    with written(path) as partial:
        torch.save(x0.cpu(), partial)  # as it lies in memory, on which the last digits of what is made of it depend
    return path


def _read(path: Path) -> Latents:
    return torch.load(path, weights_only=True)
