"""U-Nets that take cameras, from three layouts of a folder; safetensors alone, and none of the folder's code is run.

    unet/ with class_embed_type "projection"     diffusers' own class as it is, and what `save` writes
    unet/ and camera_proj/                       MVDream in diffusers' names: the embedding is a part of its own
    unet/ with input_blocks.*, camera_embed.*    MVDream in its original names, with a class that diffusers has not

All become diffusers' `UNet2DConditionModel` whose class embedding is the camera's (Shi et al. 2023, section 3.1).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.objectives.cameras import CAMERA_NUMBERS
from pds_nerfstudio.priors.folder import MVDREAMS_SIZE, camera_layout, read_json, weights_of

Weights = dict[str, Tensor]

CAMERA_CONFIG = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": CAMERA_NUMBERS}

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1",
    "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def unet_config(folder: Path) -> dict[str, Any]:
    """diffusers' configuration of a folder's U-Net, in whichever layout it takes cameras, or takes none."""
    config = read_json(folder / "unet" / "config.json")
    match camera_layout(folder):
        case "camera_proj":
            return config | CAMERA_CONFIG
        case "original":
            with safe_open(weights_of(folder, "unet"), "pt") as weights:
                shape = weights.get_slice("middle_block.1.proj_in.weight").get_shape()
            # Linear in those made from Stable Diffusion 2, a 1x1 convolution in those from 1.5.
            return diffusers_config(config) | {"use_linear_projection": len(shape) == 2}
        case _:
            return config


def load_unet(folder: Path, dtype: torch.dtype) -> Any:
    """The U-Net of a folder whose layout `check.camera_layout` knows.

    Raises:
        UserError: configuration and weights do not belong together.
    """
    config, weights = unet_config(folder), load_file(weights_of(folder, "unet"))
    match camera_layout(folder):
        case "camera_proj":
            embedding = load_file(weights_of(folder, "camera_proj"))
            weights |= {f"class_embedding.{name}": value for name, value in embedding.items()}
        case "original":
            weights = {diffusers_name(name, config["layers_per_block"]): value for name, value in weights.items()}
    # Without random numbers that would only be overwritten.
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config)
    try:
        unet.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The unet of the prior {folder} cannot be loaded ({reason}): its config.json and its weights must come "
            "from the same model."
        ) from error
    return unet


def diffusers_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers' configuration of a U-Net that MVDream's own describes (CompVis's names, plus camera_dim)."""
    widths = [original["model_channels"] * multiple for multiple in original["channel_mult"]]
    attends = [2**level in original["attention_resolutions"] for level in range(len(widths))]
    per_head = original.get("num_head_channels", -1)
    return {
        "sample_size": original.get("image_size", MVDREAMS_SIZE),
        "in_channels": original["in_channels"],
        "out_channels": original["out_channels"],
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "layers_per_block": original["num_res_blocks"],
        "transformer_layers_per_block": original.get("transformer_depth", 1),
        "cross_attention_dim": original["context_dim"],
        # Diffusers' name for the number of heads.
        "attention_head_dim": [width // per_head if per_head > 0 else original["num_heads"] for width in widths],
        **CAMERA_CONFIG,
    }


def diffusers_name(name: str, layers: int) -> str:
    """diffusers' name of a parameter that MVDream's own code calls `name`.

    Its blocks are numbered through all levels: on the way down, `layers` residual blocks and a downsampler per level
    after the first convolution; on the way up, `layers` + 1 residual blocks, the last with an upsampler.

    Raises:
        UserError: there is no such parameter in a U-Net of this kind.
    """
    for old, new in _ENDS.items():
        if name.startswith(old + "."):
            return new + name[len(old) :]
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", name):
        part, rest = int(match[1]), match[2]
        return f"mid_block.attentions.0.{rest}" if part == 1 else f"mid_block.resnets.{part // 2}.{_resnet(rest)}"
    if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name):
        side, block, part, rest = match[1], int(match[2]), int(match[3]), match[4]
        level, layer = divmod(block - 1 if side == "input" else block, layers + 1)
        where = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
        if rest.startswith("op."):
            return f"{where}.downsamplers.0.conv.{rest.removeprefix('op.')}"
        if rest.startswith("conv."):
            return f"{where}.upsamplers.0.{rest}"
        return f"{where}.attentions.{layer}.{rest}" if part == 1 else f"{where}.resnets.{layer}.{_resnet(rest)}"
    raise UserError(f"The U-Net has a weight {name!r} that a multi-view prior has not: give MVDream's own folder.")


def _resnet(rest: str) -> str:
    """A parameter within a residual block."""
    old = next((old for old in _RESNET if rest.startswith(old + ".")), None)
    return rest if old is None else _RESNET[old] + rest[len(old) :]
