"""`pds preview`: try prompts and settings on photographs, in two dimensions, before paying for an edit of the scene.

Every setting that is given more than once becomes an axis of the sheet; the `ns-train` line of each variant is printed.
"""

import dataclasses
import itertools
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from annotated_types import Ge, Le
from rich.console import Console

from pds_nerfstudio.cli.preview_lines import PNR, SDEDIT, ns_train_line, reconstruction, whole_edit
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import require_own, require_writable
from pds_nerfstudio.next_steps import say_loading, say_next
from pds_nerfstudio.prompts import check_prompts, unknown_words
from pds_nerfstudio.ranges import Guidance, LearningRate, Pixels, Seed, Steps, check_ranges
from pds_nerfstudio.text import choices, in_rich, printable

if TYPE_CHECKING:
    from pds_nerfstudio.objectives import ScoreDistillation
    from pds_nerfstudio.objectives.sdedit import SDEdit
    from pds_nerfstudio.scenes.photographs import Photographs

INDEX = "preview.json"
EDITORS = ("sds", "dds", "pds", "vsd", "piva", "ssd", "dvrf", "dreamcatalyst", SDEDIT)
"""Those of `known_editors`, which imports torch."""


@dataclass(frozen=True)
class OwnSettings:
    """Settings of the preview itself."""

    steps: Steps = 100
    learning_rate: LearningRate | None = None
    seed: Seed = 0


OWN = {"steps": int, "learning_rate": float, "seed": int}
"""What they are read as."""
TRUTH = {"true": True, "false": False}
"""How a setting that is either is written, in letters of any case."""


@dataclass(frozen=True)
class Variant:
    """One edit of the sheet."""

    number: int
    settings: Mapping[str, Any]
    """Name -> value, of everything that was set."""
    editor: "ScoreDistillation | SDEdit"

    @property
    def tgt_prompt(self) -> str:
        return self.settings["tgt_prompt"]

    @property
    def objective(self) -> str:
        """What a person is told of it, such as "pds", or "pnr, by dds"."""
        name = self.settings["objective"]
        return name if name != PNR else f"{PNR}, by {type(self.editor).__name__.lower()}"

    def label(self, axis: str | None) -> str:
        """What the sheet writes beside this variant's row, or above its column."""
        return "" if axis is None else f"{axis.replace('_', ' ')} {self.settings[axis]}".removeprefix("tgt prompt ")


@dataclass
class Preview:
    """Edit photographs in two dimensions, and compare the results on one sheet.

    A setting that is given several values becomes an axis of the sheet: prompts, guidance, objectives, or what --set
    names. At most two settings may vary. Prints the ns-train line of every variant.
    """

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, or one folder: a run, a nerfstudio dataset, or a folder of images."""
    src_prompt: Annotated[str, tyro.conf.arg(aliases=("--from",))] = ""
    """What the photographs show. SDS and SDEdit do not ask for it."""
    tgt_prompt: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--to",))] = ()
    """What the photographs should show; one prompt or more."""
    guidance_scale: tuple[Guidance, ...] = ()
    """Classifier-free guidance; one value or more. By default that of the prior's recipe, else the objective's own."""
    prior: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A hub id, a local diffusers folder, "toybox" or "studio"."""
    objective: tuple[str, ...] = (PNR,)
    """sds, dds, pds, vsd, piva, ssd, dvrf, dreamcatalyst or sdedit; one or more. pnr is the one that pnr-edit, the
    method of `pds edit`, takes with this prior."""
    views: tuple[Annotated[int, Ge(0), Le(10**9)], ...] = (0,)
    """Which training photographs of a dataset or run, counted from 0."""
    steps: Steps = 100
    """Steps of gradient descent for each variant. More steps walk the same distance in finer steps: the learning rate
    is 0.01 · 1000/steps unless --set learning-rate gives another."""
    out: Path = Path("outputs/preview")
    """Folder for sheet.png, the edited pictures and preview.json."""
    set: tuple[str, ...] = ()
    """Other settings, as NAME=VALUE or NAME=VALUE,VALUE: any of the objective's (max-step-percent, weighting,
    regularisation, strength …), or learning-rate, steps, seed."""
    resolution: Pixels | None = None
    """Shorter side in pixels; by default the size the prior was trained at."""
    lora: tuple[str, ...] = ()
    """LoRAs to add to the prior, PATH[:weight] each."""
    embedding: tuple[Path, ...] = ()
    """Textual inversions (.safetensors) to load. Write a file's name in a prompt to use it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes CUDA if there is any."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self) -> None:
        """Edit every variant, write the sheet, print the lines."""
        from pds_nerfstudio.priors.check import check_prior, local_folder
        from pds_nerfstudio.priors.extras import check_extras_of
        from pds_nerfstudio.scenes.photographs import find_photographs, require_there

        if not self.inputs:
            raise UserError("No photographs are given: name image files, a dataset's folder or a run's.")
        require_there(self.inputs)
        self._check_words()
        check_prior(self.prior)
        check_extras_of(local_folder(self.prior), self.lora, self.embedding, flags="--")
        require_own(self.out, ("sheet.png", INDEX), INDEX, "cells")
        require_writable(self.out)
        say_loading(Console(soft_wrap=True))
        photographs = find_photographs(self.inputs, self.views)
        variants, axes = self._variants(photographs.family or "splatfacto")
        start = time.perf_counter()
        results = self._edit(variants, photographs)
        self._write(variants, axes, photographs, results, time.perf_counter() - start)

    def _check_words(self) -> None:
        """Raise UserError for an objective that there is not, or prompts that make no edit."""
        for name in self.objective:
            if name not in (PNR, *EDITORS):
                raise UserError(f"There is no objective {name!r}: {choices(name, (PNR, *EDITORS))}")
        needs_source = any(name not in ("sds", SDEDIT) for name in self.objective)
        for prompt in self.tgt_prompt or ("",):
            check_prompts(self.src_prompt, prompt, needs_source=needs_source)

    def _variants(self, family: str = "splatfacto") -> tuple[list[Variant], dict[str, int]]:
        """Every combination of the settings; and of those that vary, name and number of values: rows, then columns.

        Args:
            family: of the scene that is to be edited.

        Raises:
            UserError: prompts that are missing, a setting or value that is unknown, or more than two that vary.
        """
        from pds_nerfstudio.objectives.base import ScoreDistillation

        self._check_words()
        editors = known_editors() | {PNR: ScoreDistillation}  # which has what every objective can be told
        choices: dict[str, Sequence[Any]] = {"tgt_prompt": self.tgt_prompt, "objective": self.objective}
        if self.guidance_scale:
            choices["guidance_scale"] = self.guidance_scale
        choices |= dict(parsed_setting(text, [editors[name] for name in self.objective]) for text in self.set)
        choices = {name: tuple(dict.fromkeys(values)) for name, values in choices.items()}
        axes = {name: len(values) for name, values in choices.items() if len(values) > 1}
        if len(axes) > 2:
            raise UserError(f"{', '.join(axes)} have several values each, and a sheet has two sides: vary two of them.")
        variants = []
        for number, values in enumerate(itertools.product(*choices.values()), start=1):
            settings: dict[str, Any] = {"steps": self.steps, "seed": 0} | dict(zip(choices, values, strict=True))
            check_ranges(OwnSettings(**{name: settings[name] for name in OWN if name in settings}), "--set ")
            prompts = self.src_prompt, settings["tgt_prompt"]
            name, by_recipe = by_recipe_of(self.prior, settings["objective"], family, prompts)
            kind: Any = editors[name]
            names = {field.name for field in dataclasses.fields(kind)}
            chosen = by_recipe | settings
            try:
                editor = kind(**{name: value for name, value in chosen.items() if name in names})
            except ValueError as error:
                raise UserError(str(error)) from error
            variants.append(Variant(number, settings, editor))
        return variants, axes

    def _edit(self, variants: Sequence[Variant], photographs: "Photographs") -> "list[Any]":
        """The photographs at the prior's size, then every variant's edit of them: [photographs 3 H W] each."""
        import torch
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from pds_nerfstudio.objectives.cameras import Viewpoints
        from pds_nerfstudio.objectives.sdedit import SDEdit
        from pds_nerfstudio.pipelines.image_edit import edit_latents
        from pds_nerfstudio.priors.load import load_prior

        cuda = torch.cuda.is_available()
        if self.device == "cuda" and not cuda:
            raise UserError("--device cuda is not available on this machine: leave --device out.")
        console = Console()
        if warning := unknown_words(self.prior, self.src_prompt, *self.tgt_prompt):
            console.print(f"[yellow]{in_rich(warning)}")
        console.print(f"[cyan]Loading the prior {in_rich(self.prior)}")
        device = "cuda" if cuda and self.device == "auto" else self.device.replace("auto", "cpu")
        prior = load_prior(self.prior, device, loras=self.lora, embeddings=self.embedding)
        images = read_photographs(photographs, prior, self.resolution).to(prior.device)
        with torch.no_grad():
            x0 = prior.encode(images)
        known = photographs.cameras if prior.takes_cameras else None
        cameras = None if known is None else Viewpoints(known)
        total = sum(1 if isinstance(variant.editor, SDEdit) else variant.settings["steps"] for variant in variants)
        columns = (TextColumn("editing"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
        results = [images.cpu()]
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("editing", total=total)
            for variant in variants:
                settings = {name: variant.settings[name] for name in ("steps", "seed")}
                edited = edit_latents(
                    prior,
                    variant.editor,
                    x0,
                    self.src_prompt,
                    variant.tgt_prompt,
                    **settings,
                    rate=variant.settings.get("learning_rate"),
                    after_step=lambda _: bar.advance(task),
                    cameras=cameras,
                )
                results.append(prior.decode(edited).cpu())
        return results

    def _write(
        self,
        variants: Sequence[Variant],
        axes: Mapping[str, int],
        photographs: "Photographs",
        results: "list[Any]",
        seconds: float,
    ) -> None:
        from pds_nerfstudio.files import distinct_names, write_whole
        from pds_nerfstudio.pictures import contact_sheet, save_image

        source, *edits = results
        across, down = ([None, *axes][-1]), (next(iter(axes)) if len(axes) == 2 else None)
        columns = axes[across] if across else 1
        rows, badges = {}, {}
        names = distinct_names(photographs.paths)
        for first in range(0, len(variants), columns):
            part = variants[first : first + columns]
            for p, name in enumerate(names):
                label = f"{part[0].label(down)} {name if len(names) > 1 else ''}".strip()
                rows[label] = [source[p], *(edits[variant.number - 1][p] for variant in part)]
                badges[label] = ["", *(str(variant.number) for variant in part)]
        objective = "" if "objective" in axes else f"{variants[0].objective}: "
        title = objective + (self.src_prompt or "no source prompt")
        title += "" if "tgt_prompt" in axes else f"   to   {variants[0].tgt_prompt}"
        headings = ["photograph", *(f"{variant.label(across)}" for variant in variants[:columns])]
        lines = {variant.number: ns_train_line(variant, self, photographs) for variant in variants}
        record = {
            "photographs": [str(path) for path in photographs.paths],
            "src_prompt": self.src_prompt,
            "prior": self.prior,
            "lora": self.lora,
            "embedding": [str(path) for path in self.embedding],
            "seconds": round(seconds, 1),
            "cells": [dict(v.settings) | {"number": v.number, "line": lines[v.number]} for v in variants],
        }
        write_whole(self.out / INDEX, json.dumps(record, indent=2) + "\n")
        for variant, edited in zip(variants, edits, strict=True):
            for name, image in zip(names, edited, strict=True):
                save_image(image, self.out / f"{variant.number:02d}_{name}.png")
        contact_sheet(rows, self.out / "sheet.png", title, 192, headings, badges)  # the last: with it, all is there
        console = Console(soft_wrap=True)
        sheet = in_rich(self.out / "sheet.png")
        several, many = ("s" * (number > 1) for number in (len(variants), len(source)))
        made = f"{len(variants)} edit{several} of {len(source)} photograph{many} in {seconds:.0f} s"
        console.print(f"{in_rich(made)}: {sheet}")
        if photographs.run is None:
            console.print(
                printable(f"First: {shlex.join(reconstruction(photographs.data))}"), highlight=False, markup=False
            )
        for variant in variants:
            name = ", ".join(variant.label(axis) for axis in axes) or variant.tgt_prompt
            console.print(f"[bold]{variant.number}[/] [cyan]{in_rich(name)}[/]", highlight=False)
            console.print(f"  {printable(lines[variant.number])}", highlight=False, markup=False)
        wholes = (whole_edit(variant, self, photographs, len(variants) > 1) for variant in variants)
        say_next(console, itertools.islice(filter(None, wholes), 1))


def known_editors() -> dict[str, type]:
    """Objectives, and SDEdit, by the names that users type."""
    from pds_nerfstudio.objectives import BY_NAME
    from pds_nerfstudio.objectives.sdedit import SDEdit

    return {**BY_NAME, SDEDIT: SDEdit}


def by_recipe_of(prior: str, name: str, family: str, prompts: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """The editor that a name of the command line means, and its settings by the recipe of a prior."""
    from pds_nerfstudio.priors.recipe import editor_settings, revising

    return revising(prior, family, prompts) if name == PNR else (name, editor_settings(prior, name, prompts))


def parsed_setting(text: str, kinds: Sequence[type], own: Mapping[str, type] = OWN) -> tuple[str, tuple[Any, ...]]:
    """NAME=VALUE,VALUE of --set, for editors of these kinds or of a command's own settings.

    Raises:
        UserError: none of them has that setting, or it cannot have that value.
    """
    name, given, values = text.partition("=")
    name = name.strip().replace("-", "_")
    known = dict(own)
    for kind in kinds:
        known |= {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
    if not given or name not in known:
        raise UserError(
            f"--set {text!r} is no NAME=VALUE of this command: NAME can be "
            f"{', '.join(sorted(known)).replace('_', '-')}."
        )
    hint = known[name]
    parsed = []
    for value in values.split(","):
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise UserError(f"--set {text!r}: {name.replace('_', '-')} can be {' or '.join(get_args(hint))}.")
            parsed.append(value)
            continue
        if hint is bool:  # bool("False") is True
            if value.lower() not in TRUTH:
                raise UserError(f"--set {text!r}: {name.replace('_', '-')} can be {' or '.join(TRUTH)}.")
            parsed.append(TRUTH[value.lower()])
            continue
        try:
            parsed.append(hint(value))
        except ValueError:
            raise UserError(f"--set {text!r}: {value!r} is no number of the kind that it takes.") from None
    return name, tuple(parsed)


def read_photographs(photographs: "Photographs", prior: Any, resolution: int | None) -> Any:
    """Photographs at the prior's working size, [photographs 3 H W], RGB in [0, 1]; all in the first one's shape.

    Raises:
        UserError: one cannot be read, or they differ in shape.
    """
    import torch

    from pds_nerfstudio.pictures import read_photograph

    short_side = resolution or prior.trained_size
    paths, images = photographs.paths, []
    for path in paths:
        images.append(read_photograph(path, short_side, prior.size_multiple, photographs.stored))
        if images[-1].shape != images[0].shape:
            raise UserError(f"{path} has another shape than {paths[0]}: preview photographs of one shape at a time.")
    return torch.cat(images)
