"""Edits with every setting off its default, cut off and resumed: what `test_resume_*.py` checks method by method.

What a kill leaves of one is copied from its folder while it runs. Edits that are really killed: `test_edit.py`,
`test_refine.py`, `test_interruption.py`.
"""

import functools
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import in_process
import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.settings import Compute
from pds_nerfstudio.pipelines.settings_tree import settings
from pds_nerfstudio.scenes.source import find_run

from .conftest import HEADLESS, PROMPTS

EDITS = [name for name, method in METHODS.items() if isinstance(method.config.pipeline, EditConfig)]
SAVED_EVERY, LEFT_AT, STEPS = 3, 5, 7
OF_THE_RUN = ("base", "base_step", "base_checksum", "carried", "followed")
NOT_SET = ("_target", "datamanager", "model", *OF_THE_RUN, "src_prompt", "tgt_prompt", "drawn")
"""Nothing that a user sets here; prompts are PROMPTS, and what is drawn is drawn in the viewer."""
CHOSEN: dict[str, Any] = {
    "prior": "toybox",
    "recipe": ("none",),
    "encoder": "toybox",
    "control": "toybox",
    "resolution": 32,
    "box": (-2.0, -2.0, -2.0, 2.0, 2.0, 2.0),
    "region": "the can",
    "pick": (-0.03, -0.02, -0.67),  # on the floor: everything else is what may change
    "pick_grow": -0.05,
    "densify_from": 1,
    "densify_until": 6,
    "densify_every": 2,
    "densify_growth": 3.0,
    "views_per_step": 2,
    "steps_per_view": 2,
    "views": "both",
    "orbits": 3,
    "view_words": False,  # says one view's word, and several are shown
    "subject": (0.1, 0.0, -0.5, 0.4),
    "negative_prompt": "a green ball",
    "adapter_rank": 2,
    "adapter_warmup": 2,
    "edit_steps": 4,
    "refine_steps": STEPS - 4,
    "eta": 0.4,
    "hold_details": 3.0,
    "by": "sds",
    "reconstruction": True,
    "guidance_scale": 4.0,
    "num_steps": 3,
    "update_every": 2,
    "min_strength": 0.1,
    "max_strength": 0.6,
    "editor": "inversion",
}
"""Values that are off the default and still work together; all others are found by `another`."""
OF_NERFS = (2.336, -0.116, -3.16)
"""A point on the surface of a NeRF of sixty steps, in place of CHOSEN's."""
EXTRAS = {"lora": "detail.safetensors:0.5", "embedding": "word.safetensors"}
"""What is added to the prior, as the flags name it, below the folder of everything."""
RESOLUTIONS = {"pnr-edit": 64, "pnr-edit-splat": 64}
"""At which the prior sees where this edit would change something."""
KEPT = {
    ("PDS", "weighting"): "its other weighting has no gradient beside the other coefficients",
    ("RegionSettings", "click"): "the edit itself turns it into pick, by which a resumed one knows it",
}
"""Settings that stay as they are, and why."""


def another(kind: Any, value: Any) -> Any:
    """Some other value of a setting of that type."""
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.5 if value == 0 else 0.75 * value
    raise TypeError(f"say in CHOSEN what else {value!r} could be")


def choices(holder: Any, name: str, flag: str, masks: Path) -> Iterator[tuple[str, Any]]:
    """A setting, or its parts, by flag, with values off their defaults."""
    value, kind = getattr(holder, name), get_type_hints(type(holder))[name]
    literals = [part for part in get_args(kind) if get_origin(part) is Literal]
    if any((kind_of.__name__, name) in KEPT for kind_of in type(holder).__mro__):
        return
    if is_dataclass(value):
        for member in fields(value):
            yield from choices(value, member.name, f"{flag}.{member.name}", masks)
    elif name == "masks":
        yield flag, masks
    elif name in EXTRAS:
        yield flag, f"{masks.parent / EXTRAS[name]}"
    elif name in CHOSEN:
        yield flag, CHOSEN[name]
    else:
        yield flag, another(literals[0] if literals else kind, value)


def flags_off_default(method: str, masks: Path) -> list[str]:
    """What sets everything that a resumed edit has to remember."""
    config = METHODS[method].config
    chosen: dict[str, Any] = {"steps_per_save": SAVED_EVERY, "max_num_iterations": STEPS}
    for name, holder in settings(config.pipeline):
        if name not in NOT_SET and not isinstance(holder, Compute):
            chosen |= dict(choices(holder, name, f"pipeline.{name}", masks))
    if not method.endswith("-splat"):
        chosen["pipeline.pick"] = OF_NERFS
    if method == "sdedit-refine":  # whose caption is what the edit was to show
        chosen["pipeline.region"] = "the cone"
    chosen["pipeline.resolution"] = RESOLUTIONS.get(method, CHOSEN["resolution"])
    for group, parts in config.optimizers.items():
        chosen[f"optimizers.{group}.optimizer.lr"] = 0.5 * parts["optimizer"].lr
        chosen[f"optimizers.{group}.optimizer.eps"] = 1e-9
        if parts["scheduler"] is not None:
            chosen[f"optimizers.{group}.scheduler.lr_final"] = 0.3 * parts["optimizer"].lr
            chosen[f"optimizers.{group}.scheduler.max_steps"] = STEPS + 3
            chosen[f"optimizers.{group}.scheduler.warmup_steps"] = 2
    words = []
    for flag, value in chosen.items():
        words += [f"--{flag.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def train(arguments: list[str], left: tuple[Path, Path] | None = None) -> None:
    """`ns-train` in this process; before step `LEFT_AT` the first of the folders is copied to the second."""
    from pds_nerfstudio.pipelines.trainer import EditTrainer

    step_of = EditTrainer.train_iteration

    def watched(self, step: int):
        if left is not None and step == LEFT_AT:
            shutil.copytree(*left, symlinks=True)
        return step_of(self, step)

    EditTrainer.train_iteration = watched
    in_process.ns_train(*arguments)


IMPORTED = (
    *("pds_nerfstudio.methods", "nerfstudio.scripts.train", "nerfstudio.models.splatfacto"),
    *("pds_nerfstudio.priors.load", "pds_nerfstudio.priors.multi_view", "transformers.models.clip.modeling_clip"),
    *("diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl", "peft"),
    *("torchmetrics.image.lpip", "torch.utils.tensorboard"),
)
"""What every process has from the one that it is forked from: half of an edit of seven steps would be imports."""


def in_a_process_of_its_own(arguments: list[str], left: tuple[Path, Path] | None = None) -> None:
    """`train` in a process that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    process = context.Process(target=train, args=(arguments, left))
    process.start()
    process.join(600)
    assert process.exitcode == 0


def the_run(folder: Path) -> Path:
    """The only run below `folder`."""
    (config,) = folder.rglob("config.yml")
    return config.parent


def assert_same(a: Any, b: Any, where: str = "checkpoint") -> None:
    """Two checkpoints hold the same, to the bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for name in a:
            assert_same(a[name], b[name], f"{where}.{name}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}.{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@functools.cache
def all_white(folder: Path, scene: Path) -> Path:
    """Masks that let everything change, one for each training view."""
    folder.mkdir()
    for image in (scene / "source" / "images").glob("train_*.png"):
        Image.fromarray(np.full((32, 32), 255, np.uint8)).save(folder / image.name)
    return folder


def write_extras(folder: Path) -> None:
    """A LoRA of one layer of toybox's prior, and a word for it."""
    from pds_nerfstudio.priors.check import prior_folder

    with safe_open(prior_folder("toybox") / "unet" / "diffusion_pytorch_model.safetensors", "pt") as unet:
        layer = next(name for name in sorted(unet.keys()) if name.endswith("attn2.to_k.weight")).removesuffix(".weight")
        outwards, inwards = unet.get_slice(f"{layer}.weight").get_shape()
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(1, inwards, generator=generator), torch.randn(outwards, 1, generator=generator)
    lora = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": 0.1 * up}
    save_file(lora, folder / EXTRAS["lora"].partition(":")[0])
    save_file({"emb_params": torch.randn(1, inwards, generator=generator)}, folder / EXTRAS["embedding"])


def check_resuming(method: str, base: Path, scene: Path, folder: Path) -> None:
    """Resume what a kill in the middle of an edit would leave, by its folder alone, and compare with the whole edit.

    Args:
        base: `config.yml` of the run to edit.
        scene: the toybox scene that it shows.
        folder: where everything is written.
    """
    write_extras(folder)
    flags = flags_off_default(method, all_white(folder / "masks", scene))
    edit = [method, *HEADLESS, "--load-dir", str(base.parent), *PROMPTS, *flags]
    left = folder / "straight", folder / "left"
    in_a_process_of_its_own([*edit, "--output-dir", str(folder / "straight")], left)
    interrupted = find_run(the_run(folder / "left"))
    assert interrupted.step == SAVED_EVERY
    resume = [method, *HEADLESS, "--load-dir", str(interrupted.config_path.parent)]
    in_a_process_of_its_own([*resume, "--output-dir", str(folder / "resumed")])

    straight, resumed = (find_run(the_run(folder / name)) for name in ("straight", "resumed"))
    assert straight.step == resumed.step == STEPS - 1
    then, now = (dict(settings(run.config.pipeline)) for run in (straight, resumed))
    for name, holder in then.items():
        if not isinstance(holder, Compute) and name not in ("datamanager", "model"):
            assert getattr(now[name], name) == getattr(holder, name), name
    assert resumed.config.optimizers == straight.config.optimizers
    assert_same(straight.checkpoint, resumed.checkpoint)
