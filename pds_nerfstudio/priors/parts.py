"""The parts of a diffusers folder, read from this machine and complete."""

import math
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.priors.families import VARIANTS
from pds_nerfstudio.priors.folder import is_flow, read_json


def load_scheduler(folder: Path) -> Any:
    """The folder's noise schedule as DDIM, or of a flow as Euler's steps, whichever scheduler it names.

    Without clipping: latents are not confined to [-1, 1], and DDIM's default would clip where a folder's own scheduler
    has no such setting.
    """
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler  # pyright: ignore[reportPrivateImportUsage]

    where = {"subfolder": "scheduler", "local_files_only": True}
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    if is_flow(config):
        other = {"shift": config["flow_shift"]} if "flow_shift" in config else {}  # another sampler's word for it
        if config.get("use_dynamic_shifting"):  # by the size of a picture: that of the largest, see `flux`
            other = {"use_dynamic_shifting": False, "shift": math.exp(config.get("max_shift", 1.15))}
        return FlowMatchEulerDiscreteScheduler.from_pretrained(folder, **other, **where)
    return DDIMScheduler.from_pretrained(folder, clip_sample=False, **where)


def load_tokenizer(folder: Path, part: str, of_clip: bool) -> Any:
    """CLIP's, or of another kind of encoder its own."""
    from transformers import AutoTokenizer, CLIPTokenizer

    kind: Any = CLIPTokenizer if of_clip else AutoTokenizer
    return kind.from_pretrained(folder, subfolder=part, local_files_only=True)


def load_part(kind: Any, folder: Path, part: str, **settings: Any) -> Any:
    """One network of the folder. Weights that its file lacks are an error, not the random numbers they would become."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # of one that is read in an instant it would stay on the page
    weights = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    variant = next((v for v in (None, *VARIANTS) if _has(folder / part / weights, v)), None)
    try:
        network, info = kind.from_pretrained(
            folder,
            subfolder=part,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **settings,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(_not_loaded(folder, part, first_line(error).split(". ")[0])) from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(_not_loaded(folder, part, f"{len(missing)} weights are missing, the first is {missing[0]}"))
    return network


def _has(stem: Path, variant: str | None) -> bool:
    """Whether the weights of that name are there in a variant, in one file or several."""
    named = ("safetensors", "safetensors.index.json")
    if variant is not None:
        named = (f"{variant}.safetensors", f"safetensors.index.{variant}.json")
    return any(stem.with_name(f"{stem.name}.{ending}").is_file() for ending in named)


def _not_loaded(folder: Path, part: str, reason: str) -> str:
    return (
        f"The {part} of the prior {folder} cannot be loaded ({reason}): "
        "its config.json and its weights must come from the same model."
    )
