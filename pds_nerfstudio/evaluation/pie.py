"""PIE-Bench (Ju et al. 2024): image edits with a mask of what may change, and seven numbers for each.

FOLDER/mapping_file.json       by name: image_path, original_prompt, editing_prompt, editing_type_id, mask
FOLDER/annotation_images/…     the photographs, in the mask's size

A mask lists runs of pixels, first and length in turn, in reading order; square brackets in a prompt mark the words that
change and are no part of it. As in the benchmark's own evaluation a mask's border counts as changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.measure import Judges
from pds_nerfstudio.evaluation.metrics import psnr, ssim
from pds_nerfstudio.files import file_name, from_json, read_json
from pds_nerfstudio.machine import default_device
from pds_nerfstudio.pictures import Images

CLIP_SCALE = 100
"""CLIP's cosine is given in hundredths."""
MAPPING, PICTURES = "mapping_file.json", "annotation_images"
PROMPTS = "original_prompt", "editing_prompt"
DINO = "facebook/dino-vitb8"
METRICS = {
    "structure_distance": "structure distance",
    "psnr": "background PSNR, dB",
    "distance": "background distance",
    "mse": "background MSE",
    "ssim": "background SSIM",
    "clip_whole": "CLIP, whole",
    "clip_edited": "CLIP, edited part",
}


@dataclass(frozen=True)
class PieEdit:
    """One edit of one photograph."""

    name: str
    image: Path
    source_prompt: str
    target_prompt: str
    kind: str
    """The benchmark's editing_type_id."""
    runs: tuple[int, ...]
    """What may change, as the file lists it."""

    def mask(self, height: int, width: int) -> Bool[Tensor, "height width"]:
        """Where the photograph may change. Raises UserError if the runs leave the picture."""
        mask = torch.zeros(height * width, dtype=torch.bool)
        for first, length in zip(self.runs[::2], self.runs[1::2], strict=True):
            if not 0 <= first < len(mask) or length < 0:
                raise UserError(f"The mask of {self.name} begins outside its picture of {width}x{height} pixels.")
            mask[first : first + length] = True
        mask = mask.reshape(height, width)
        mask[[0, -1]] = True
        mask[:, [0, -1]] = True
        return mask


def read_pie(folder: Path) -> list[PieEdit]:
    """Every edit of a folder in PIE-Bench's layout.

    Raises:
        UserError: the mapping file or a photograph is missing, or an entry lacks something.
    """
    try:
        entries = from_json(folder / MAPPING)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no folder of PIE-Bench: it has no readable {MAPPING}.") from error
    edits = []
    if not isinstance(entries, dict):
        raise UserError(f"{folder / MAPPING} holds {type(entries).__name__}, no edits by name.")
    for name, entry in entries.items():
        try:
            file_name(name)
            source, target = (entry[key].replace("[", "").replace("]", "") for key in PROMPTS)
            image, kind = _inside(folder / PICTURES, entry["image_path"]), str(entry["editing_type_id"])
            edits.append(PieEdit(name, image, source, target, kind, tuple(map(int, entry["mask"]))))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"The entry {name} of {folder / MAPPING} cannot be read ({error}).") from error
        if not image.is_file():
            raise UserError(f"The photograph {image} of {name} is missing: unpack PIE-Bench's annotation_images there.")
        if len(entry["mask"]) % 2:
            raise UserError(f"The mask of {name} in {folder / MAPPING} lists a run without its length.")
    if not edits:
        raise UserError(f"{folder / MAPPING} lists no edits.")
    return edits


def _inside(folder: Path, name: object) -> Path:
    """A file below a folder. Raises ValueError for a name that leads elsewhere."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name:
        raise ValueError(f"image_path is {name!r}, no file's name")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"image_path {name!r} leads out of {folder.name}")
    return folder / name


def read_record(path: Path) -> dict[str, float]:
    """The numbers of one edit, as `pds pie-bench` keeps them.

    Raises:
        UserError: they cannot be read.
    """
    remedy = "remove it, and run the same line again"
    values = read_json(path, dict, "The record", remedy)
    if not all(name in METRICS and isinstance(value, int | float) for name, value in values.items()):
        raise UserError(f"The record {path} is damaged (it holds other than numbers of known names): {remedy}.")
    return values


def numbers(
    edit: PieEdit, before: Images, after: Images, judges: Judges, structure: "Structure | None"
) -> dict[str, float]:
    """The seven numbers of an edited photograph as the benchmark's own evaluation has them.

    Missing are those whose network is not on this machine, and of an edit that may change the whole picture those of
    the background.
    """
    inside = edit.mask(*before.shape[-2:]).to(before)[None]
    values = {}
    if not bool(inside.all()):
        # What may change is black in both, and counts among the pixels.
        hidden = [images * (1 - inside)[:, None] for images in (before, after)]
        values["psnr"] = float(psnr(*hidden))
        values["mse"] = float((hidden[0] - hidden[1]).square().mean())
        values["ssim"] = float(ssim(*hidden))
        if judges.distance is not None:
            values["distance"] = judges.distance(hidden[0][0], hidden[1][0])
    if judges.clip is not None:
        for name, shown in (("clip_whole", after), ("clip_edited", after * inside[:, None])):
            values[name] = CLIP_SCALE * float(judges.clip.similarity(shown, [edit.target_prompt]))
    if structure is not None:
        values["structure_distance"] = structure.distance(before, after)
    return values


class Structure:
    """Self-similarity of a DINO transformer's keys (Tumanyan et al. 2022): where things are, however they look."""

    def __init__(self, folder: str):
        from transformers import ViTModel

        self.model = ViTModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, add_pooling_layer=False
        ).eval()
        torch.nn.Module.to(self.model, default_device())
        self._keys: Tensor | None = None
        # transformers has renamed it: take either name, of the last layer.
        *_, last = (module for name, module in self.model.named_modules() if name.endswith((".key", ".k_proj")))
        last.register_forward_hook(self._keep)

    def _keep(self, module: Any, args: Any, output: Tensor) -> None:
        self._keys = output

    @torch.no_grad()
    def similarity(self, image: Images) -> Float[Tensor, "tokens tokens"]:
        """Cosines between the keys of all tokens in the last layer."""
        size = int(self.model.config.image_size)  # pyright: ignore[reportArgumentType]
        image = image.to(self.model.device)
        image = F.interpolate(image, (size, size), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).to(image)[..., None, None]
        self.model((image - mean) / std)
        assert self._keys is not None
        keys = F.normalize(self._keys[0], dim=-1)
        return (keys @ keys.T).cpu()

    def distance(self, before: Images, after: Images) -> float:
        """Mean squared difference of the two pictures' self-similarities."""
        return float((self.similarity(before) - self.similarity(after)).square().mean())


def load_structure(name: str = DINO) -> Structure | None:
    """DINO, where it lies on this machine."""
    try:
        return Structure(name)
    except (OSError, ValueError):
        return None


def table(records: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: the means of each method's edits; "not measured" where a network was missing."""
    lines = [
        "| method | edits | " + " | ".join(METRICS.values()) + " |",
        "|---" * (2 + len(METRICS)) + "|",
    ]
    for method, values in records.items():
        entries = []
        for name in METRICS:
            known = [value[name] for value in values if name in value]
            entries.append(f"{math.fsum(known) / len(known):.4f}" if known else "not measured")
        lines.append(f"| {method} | {len(values)} | " + " | ".join(entries) + " |")
    return "\n".join(lines) + "\n"
