"""Which kinds of diffusers folders are priors, and which files of them are read. Nothing here imports torch.

    family             denoiser      text encoders                predicts        pixels a side
    sd                 unet          CLIP                         ε, v or x⁰      512, 768
    sdxl               unet          CLIP-L, CLIP-bigG            ε               1024
    sd3                transformer   CLIP-L, CLIP-bigG, (T5)      a flow's v      1024
    sana               transformer   Gemma 2                      a flow's v      1024
    flux               transformer   CLIP-L, T5                   a flow's v      1024, refines alone

A new family is a line here, and a class beside `stable_diffusion` that `load` knows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pds_nerfstudio.errors import UserError

VARIANTS = ("fp16", "bf16")
"""What diffusers puts into the names of weights in half precision."""
INDICES = (".safetensors.index.json", *(f".safetensors.index.{variant}.json" for variant in VARIANTS))
"""How the lists of weights end that lie in several files beside them, by diffusers' and transformers' convention."""
Alternatives = tuple[tuple[str, ...], ...]
"""Groups of files of which one suffices, in order of preference."""


@dataclass(frozen=True)
class Family:
    """A kind of diffusers folder."""

    name: str
    called: str
    """What people call it."""
    denoiser: str
    """The part that predicts."""
    encoders: tuple[str, ...]
    """The parts that read prompts."""
    optional: tuple[str, ...] = ()
    """Those of them that `model_index.json` may leave out."""
    text_width: str = "cross_attention_dim"
    """What the denoiser's configuration calls the numbers of a text feature."""
    extended: bool = True
    """Whether control pictures, textual inversions, cameras, the editing networks and the text encoder's own training
    are offered with it."""
    guided: bool = True
    """Whether guidance is the difference of two predictions, which score distillation needs; else the network is told
    of it, and refines alone."""
    packed: bool = False
    """Whether squares of two by two latents are one pixel of the denoiser."""
    sample_size: int = 64
    """Latents a side that the denoiser was trained with, where its configuration does not say."""


SD = Family("sd", "Stable Diffusion 1.x or 2.x", "unet", ("text_encoder",))
SDXL = Family("sdxl", "Stable Diffusion XL", "unet", ("text_encoder", "text_encoder_2"), extended=False)
SD3 = Family(
    "sd3",
    "Stable Diffusion 3 or 3.5",
    "transformer",
    ("text_encoder", "text_encoder_2", "text_encoder_3"),
    optional=("text_encoder_3",),
    text_width="joint_attention_dim",
    extended=False,
)
SANA = Family("sana", "SANA", "transformer", ("text_encoder",), text_width="caption_channels", extended=False)
FLUX = Family(
    "flux",
    "FLUX.1-dev",
    "transformer",
    ("text_encoder", "text_encoder_2"),
    text_width="joint_attention_dim",
    extended=False,
    guided=False,
    packed=True,
    sample_size=128,
)
FAMILIES = (SD, SDXL, SD3, SANA, FLUX)
SUPPORTED = ", ".join(family.called for family in FAMILIES if family.guided)
Purpose = Literal["distillation", "editing", "refinement"]
"""What a prior is wanted for: its score, or pictures; edits of pictures that it is shown; or SDEdit alone."""
WORLDS = {"toybox": "toybox", "toybox-flow": "toybox", "studio": "studio"}
"""The names of the priors in this package, and the world of which each is. toybox-flow predicts a flow's velocity."""
PACKAGED = tuple(WORLDS)
DISTILLED = ("Flux", "SanaSprint")
"""Beginnings of the names of pipelines whose guidance was distilled into the network."""
WHY_NOT = "whose guidance is distilled into the network, so that there is no difference of predictions to distill"


def family_of(index: Mapping[str, Any], where: str) -> Family:
    """The family of a folder by the content of its `model_index.json`.

    Raises:
        UserError: of a sentence, where it is none that is known.
    """
    kind = str(index.get("_class_name", ""))
    if kind == "FluxPipeline":
        return FLUX
    if kind.startswith(DISTILLED):
        raise UserError(f"The prior {where} is a {kind}, {WHY_NOT}: use {SUPPORTED}.")
    if kind.startswith("StableDiffusionXL"):
        return SDXL
    if kind.startswith("StableDiffusion3"):
        return SD3
    if kind == "SanaPipeline":
        return SANA
    if "unet" in index or not kind or kind.startswith("StableDiffusion"):
        return SD
    raise UserError(f"The prior {where} is a {kind}, a family that is not supported: use {SUPPORTED}.")


def check_purpose(family: Family, purpose: Purpose, where: str) -> None:
    """Raise a UserError of a sentence where a family is of no use for what it is wanted for."""
    if not family.guided and purpose != "refinement":
        raise UserError(
            f"The prior {where} is a {family.called}, {WHY_NOT}: give it to sdedit-refine, and use {SUPPORTED} to edit."
        )
    if purpose == "editing" and not family.extended:
        raise UserError(
            f"The prior {where} is a {family.called} and takes no picture to be edited: use an InstructPix2Pix, such "
            "as timbrooks/instruct-pix2pix."
        )


def needed_files(
    has: Callable[[str], bool], where: str, family: Family = SD, index: Mapping[str, Any] | None = None
) -> list[str]:
    """The files of a diffusers folder that are read, given which exist.

    Args:
        has: whether a path relative to the folder exists, on disk or in a hub listing.
        where: what to call the folder in the message.
        index: the content of its `model_index.json`, which says what optional parts there are.

    Raises:
        UserError: one is missing.
    """
    files: list[str] = []
    for alternatives in _needed(family, index or {}):
        found = next((group for group in alternatives if all(map(has, group))), None)
        if found is None:
            raise UserError(missing(alternatives[0], has, where))
        files.extend(found)
    return files


def is_left_out(part: str, family: Family, index: Mapping[str, Any]) -> bool:
    """Whether `model_index.json` says that the folder goes without an optional part: [null, null]."""
    entry = index.get(part)
    return part in family.optional and (not entry or entry[0] is None)


def _needed(family: Family, index: Mapping[str, Any]) -> list[Alternatives]:
    lines: list[Alternatives] = [(("model_index.json",),), (("scheduler/scheduler_config.json",),)]
    for encoder in family.encoders:
        if is_left_out(encoder, family, index):
            continue
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        lines += [
            ((f"{tokenizer}/tokenizer_config.json",),),
            (
                (f"{tokenizer}/vocab.json", f"{tokenizer}/merges.txt"),
                (f"{tokenizer}/tokenizer.json",),
                (f"{tokenizer}/spiece.model",),
                (f"{tokenizer}/tokenizer.model",),
            ),
            ((f"{encoder}/config.json",),),
            _weights(f"{encoder}/model"),
        ]
    for part in (family.denoiser, "vae"):
        lines += [((f"{part}/config.json",),), _weights(f"{part}/diffusion_pytorch_model")]
    return lines


def _weights(stem: str) -> Alternatives:
    """The names that a part's weights can have: one file or the list of several, whole or in half precision."""
    halves = (f".{variant}.safetensors" for variant in VARIANTS)
    return tuple((stem + ending,) for ending in (".safetensors", *halves, *INDICES))


def missing(wanted: Iterable[str], has: Callable[[str], bool], where: str) -> str:
    """What to say of a folder that lacks one of the files wanted."""
    file = next(file for file in wanted if not has(file))
    if file == "model_index.json":
        return f"The prior {where} has no model_index.json: give the folder that diffusers' save_pretrained wrote."
    pickled = {".safetensors": ".bin", "model.safetensors": "pytorch_model.bin"}
    for ending, old in pickled.items():
        if file.endswith(ending) and has(file.removesuffix(ending) + old):
            return (
                f"The prior {where} has only pickled weights ({file.removesuffix(ending) + old}), which are not loaded "
                "for safety: save the pipeline again with save_pretrained(..., safe_serialization=True)."
            )
    if file.startswith(("text_encoder_3/", "tokenizer_3/")):
        return (
            f"The prior {where} has no {file}: download T5 as well, or go without it by writing "
            '"text_encoder_3": [null, null], "tokenizer_3": [null, null] into its model_index.json.'
        )
    return f"The prior {where} has no {file}: copy or download the folder again."
