"""Low-rank changes of a whole prior as diffusers writes them: one safetensors file, and the name of their prior.

Unlike the adapters of an edit, which are switched (see `adapters`), these are added to the weights once, when the prior
is loaded: W + B·A. Nothing after that knows that there was a LoRA.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import write_whole, written
from pds_nerfstudio.priors.check import LORA_BASE, LORA_WEIGHTS
from pds_nerfstudio.priors.extras import require_no_dora
from pds_nerfstudio.priors.folder import read_json
from pds_nerfstudio.priors.one_file import read_header

if TYPE_CHECKING:
    from pds_nerfstudio.priors.latent import LatentPrior

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The attention layers that LoRA adapts in diffusion models."""
LAYERS = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut")
"""Those, and the other layers of a U-Net's transformer and residual blocks."""
OF_PEFT = "base_model.model."
"""What peft's own files put before the names of layers."""
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The same in CLIP's text encoder."""


def add_lora(network: Any, name: str, rank: int, layers: tuple[str, ...]) -> None:
    """Give a network of diffusers or transformers a fresh LoRA in those of its layers; it changes nothing yet.

    Raises:
        UserError: the rank is not positive, or the network has no such layer.
    """
    from peft import LoraConfig

    if rank < 1:
        raise UserError(f"The adapter's rank is {rank}: it must be at least 1 (the usual ones are 4 to 64).")
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers), init_lora_weights="gaussian")
    try:
        network.add_adapter(settings, adapter_name=name)
    except ValueError as error:
        raise UserError(
            f"The prior's {type(network).__name__} cannot be adapted ({first_line(error)}): it needs layers "
            f"named {', '.join(layers)}."
        ) from error


def save_lora(folder: Path, base: str, prior: "LatentPrior", parts: Mapping[str, Any]) -> None:
    """Write the LoRAs of some of a prior's networks into `folder`, in diffusers' format.

    Args:
        base: the prior that they change, as `--pipeline.prior` takes it.
        parts: the networks, by their names in a diffusers folder.
    """
    with written(folder / LORA_WEIGHTS) as partial:
        prior.pipeline().save_lora_weights(
            str(partial.parent),
            weight_name=partial.name,
            **{f"{part}_lora_layers": _layers_of(network) for part, network in parts.items()},
        )
    write_whole(folder / LORA_BASE, json.dumps({"base": base}) + "\n")


def fuse_lora(prior: "LatentPrior", file: Path, weight: float = 1.0) -> None:
    """Add the LoRA in `file`, times `weight`, to the weights of its prior.

    Raises:
        UserError: it was made for a prior of other sizes or layers, or cannot be read.
    """
    require_no_dora(file, read_header(file).shapes)
    pipeline = prior.pipeline()
    try:
        if (translated := _of_peft(file, prior.denoiser_part)) is not None:
            pipeline.load_lora_weights(translated)
        else:  # by its file, whose header may say how strong it is
            where = {"weight_name": file.name, "local_files_only": True, "use_safetensors": True}
            pipeline.load_lora_weights(str(file.parent), **where)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"The LoRA {file} cannot be added to its prior ({reason}): give the prior that it was made for."
        ) from error
    adapted = [part for part, network in prior.parts().items() if _is_adapted(network)]
    if not adapted:
        raise UserError(f"The LoRA {file} changes no layer of its prior: give the prior that it was made for.")
    pipeline.fuse_lora(components=adapted, lora_scale=weight)
    pipeline.unload_lora_weights()


def _of_peft(file: Path, denoiser: str) -> dict[str, Any] | None:
    """The matrices of peft's own file by names that diffusers knows; None of another, which diffusers knows itself.

    Args:
        denoiser: the part that peft has adapted, as a diffusers folder calls it.

    Raises:
        ValueError: some layers have a strength of their own.
    """
    from safetensors.torch import load_file

    if not all(name.startswith(OF_PEFT) for name in read_header(file).shapes):
        return None
    settings = file.with_name("adapter_config.json")
    told = read_json(settings) if settings.is_file() else {}
    if told.get("alpha_pattern") or told.get("rank_pattern"):
        raise ValueError("its adapter_config.json has patterns, for layers of other ranks or strengths")
    rank = float(told.get("r", 1))
    scale = float(told.get("lora_alpha", 1)) / (math.sqrt(rank) if told.get("use_rslora") else rank)
    scaled = {name: value * scale if ".lora_B." in name else value for name, value in load_file(file).items()}
    return {f"{denoiser}.{name.removeprefix(OF_PEFT)}": value for name, value in scaled.items()}


def _is_adapted(network: Any) -> bool:
    return bool(getattr(network, "peft_config", None))


def _layers_of(network: Any) -> dict[str, Any]:
    from peft.utils import get_peft_model_state_dict

    return get_peft_model_state_dict(network, save_embedding_layers=False)
