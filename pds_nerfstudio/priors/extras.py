"""What people add to a prior: LoRAs with a weight each, and words of their own (textual inversions); by their headers.

    W' = W + Σ wᵢ (αᵢ/rᵢ) Bᵢ Aᵢ        wᵢ as given, αᵢ and rᵢ of the file

Nothing here imports torch: an edit that names the wrong file ends before anything is loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.families import SD, SDXL, Family
from pds_nerfstudio.priors.folder import family_in, read_json
from pds_nerfstudio.priors.one_file import Header, read_header

OWN_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""Of a LoRA in the folders of diffusers and of peft."""
OF_SDXL = ("lora_te2_", "text_encoder_2.", "clip_g")
"""What keys of a LoRA, or of a word, for Stable Diffusion XL hold, and none of 1.x and 2.x."""
OF_DORA = ("dora_scale", "lora_magnitude_vector")
OF_UNETS = ("down_blocks", "up_blocks", "mid_block", "input_blocks", "output_blocks", "middle_block")
"""What keys of a LoRA for a U-Net hold, by diffusers' names or the original ones."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA and how strongly it is added."""

    path: Path
    weight: float


def lora_file(named: str, flags: str = "--pipeline.") -> LoraFile:
    """Of PATH[:weight]: a .safetensors, or a folder with one.

    Args:
        flags: what stands before "lora" in the flag that named it.

    Raises:
        UserError: nothing is there, or several files are.
    """
    path, colon, number = named.rpartition(":")
    try:
        weight = float(number) if colon and path else 1.0
        path = path if colon and path else named
    except ValueError:  # a colon of the path's own
        path, weight = named, 1.0
    found = Path(path).expanduser()
    if found.is_dir():
        files = sorted(found.glob("*.safetensors"))
        own = [file for file in files if file.name in OWN_NAMES] or files
        if len(own) != 1:
            raise UserError(f"{flags}lora {found} holds {len(own)} .safetensors: name the file of the LoRA.")
        found = own[0]
    if not found.is_file():
        raise UserError(f"{flags}lora {found} does not exist: give a LoRA's file or folder, and :weight behind it.")
    if not abs(weight) <= 10:
        raise UserError(f"{flags}lora {named} has the weight {weight:g}: give one from -10 to 10, usually 0.5 to 1.")
    return LoraFile(found, weight)


def text_width(folder: Path | None) -> int | None:
    """Numbers of a text feature of the prior in `folder`; None where that is not known or not here."""
    if folder is None:
        return None
    if (family := family_in(folder)) is SD:
        return read_json(folder / "text_encoder" / "config.json").get("hidden_size")
    return read_json(folder / family.denoiser / "config.json").get(family.text_width)


def check_extras_of(
    folder: Path | None, loras: Sequence[str], embeddings: Sequence[Path], flags: str = "--pipeline."
) -> None:
    """`check_extras` for the prior in a folder; None for one that is not on this machine yet."""
    check_extras(loras, embeddings, text_width(folder), flags, SD if folder is None else family_in(folder))


def check_extras(
    loras: Sequence[str],
    embeddings: Sequence[Path],
    text_width: int | None,
    flags: str = "--pipeline.",
    family: Family = SD,
) -> None:
    """Raise UserError for what is no LoRA or no textual inversion, or was made for another kind of prior.

    Args:
        text_width: numbers of a text feature of the prior; None where it is not on this machine yet.
        flags: what stands before "lora" and "embedding" in the flags that name them.
    """
    for named in loras:
        file = lora_file(named, flags).path
        header = read_header(file)
        if header.kind != "lora":
            raise UserError(f"{flags}lora {file} is no LoRA, by the names of its weights: give one.")
        require_no_dora(file, header.shapes)
        widths = {s[1] for n, s in header.shapes.items() if "attn2" in n and "to_k" in n and _is_down(n) and len(s) > 1}
        _check_fits(f"{flags}lora {file}", header, widths, text_width, family)
    for path in embeddings:
        if not family.extended:
            raise UserError(f"A {family.called} takes no textual inversions here: leave {flags}embedding out.")
        if not path.expanduser().is_file():
            raise UserError(f"{flags}embedding {path} does not exist: give a textual inversion's .safetensors.")
        header = read_header(path.expanduser())
        if header.kind != "embedding":
            raise UserError(f"{flags}embedding {path} is no textual inversion: give a file with its vectors alone.")
        _check_fits(
            f"{flags}embedding {path}", header, {s[-1] for s in header.shapes.values() if s}, text_width, family
        )


def require_no_dora(file: Path, names: Iterable[str]) -> None:
    """Raise UserError for a DoRA (Liu et al. 2024), whose magnitudes diffusers leaves out: it would be another change.

    Args:
        names: of its weights.
    """
    if any(sign in name for name in names for sign in OF_DORA):
        raise UserError(f"{file} is a DoRA, which is not added here: merge it into its prior by the tool that made it.")


def _is_down(name: str) -> bool:
    return any(sign in name for sign in ("lora_down", "lora_A", "lora.down"))


def _holds(header: Header, signs: Sequence[str]) -> bool:
    return any(sign in name for name in header.shapes for sign in signs)


def _check_fits(what: str, header: Header, widths: set[int], text_width: int | None, family: Family) -> None:
    # A second text encoder is also one of Stable Diffusion 3, which has no U-Net.
    may_have_two = family is not SD and not _holds(header, OF_UNETS)
    if family is not SDXL and not may_have_two and _holds(header, OF_SDXL):
        raise UserError(f"{what} was made for Stable Diffusion XL: give one for the prior's own kind.")
    if text_width is not None and widths - {text_width}:
        raise UserError(
            f"{what} was made for text features of {max(widths - {text_width})} numbers and the prior has {text_width} "
            "(768: Stable Diffusion 1.x, 1024: 2.x, 2048: XL): give one for the prior's own kind."
        )
