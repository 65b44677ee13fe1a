"""Priors of published sizes with random weights, as folders in diffusers' layout: they are loaded as trained ones are.

    python benchmarks/random_folder.py sdxl outputs/random/sdxl          # 7 GB in half precision

Networks are made and filled where the GPU is, if there is one. Words are toybox's: how many a prompt has, and how wide
what is made of it is, are as published.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from expected_memory import SD35_MEDIUM, SDXL
from random_prior import SMALL, TEXT, UNET, VAE

from pds_nerfstudio.toybox.tokenizer import build_tokenizer

Size = Literal["sd15", "sd21v", "sdxl", "sd35m"]
SIZES: tuple[Size, ...] = get_args(Size)
TITLES: dict[str, str] = {"sd15": "SD 1.5", "sd21v": "SD 2.1-v", "sdxl": "SDXL", "sd35m": "SD 3.5 medium"}
NOISE = 1 << 20
BETA = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_BIGG = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
"""As the text encoders' own config.json have it."""
FEW_LAYERS = {"num_hidden_layers": 2}
SMALL_SDXL = {"block_out_channels": (64, 64, 64), "transformer_layers_per_block": 1, "attention_head_dim": (2, 2, 2)}
SMALL_SD35 = {"num_layers": 2, "num_attention_heads": 2, "caption_projection_dim": 128, "dual_attention_layers": (0,)}
SMALL_T5 = {"num_layers": 1, "d_ff": 64, "vocab_size": 8192}
"""To try the scripts."""


def write_folder(
    size: tyro.conf.Positional[Size],
    folder: tyro.conf.Positional[Path],
    small: bool = False,
    t5: bool = True,
    shard: str = "10GB",
) -> Path:
    """A diffusers folder of those sizes, in float16, of random weights that keep activations near unit variance.

    Args:
        small: few channels and layers, to try the scripts.
        t5: with the largest text encoder, where the family has one.
        shard: the size beyond which weights are written into several files.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).to(device)
    index = {"_class_name": _pipeline(size)}
    for part, network in _networks(size, small, t5):
        index[part] = [
            "diffusers" if part in ("vae", "unet", "transformer") else "transformers",
            type(network).__name__,
        ]
        network = torch.nn.Module.to(network, torch.float16).to_empty(device=device)
        _fill(network, noise)
        network.save_pretrained(folder / part, safe_serialization=True, max_shard_size=shard)
        if part.startswith("text_encoder"):
            tokenizer = build_tokenizer(folder / part.replace("text_encoder", "tokenizer"))
            tokenizer.model_max_length = 77
            tokenizer.save_pretrained(folder / part.replace("text_encoder", "tokenizer"))
        del network
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # for the processes that load the folder
    _scheduler(size).save_pretrained(folder / "scheduler")
    if size == "sd35m" and not t5:
        index["text_encoder_3"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _pipeline(size: Size) -> str:
    families = {"sdxl": "StableDiffusionXLPipeline", "sd35m": "StableDiffusion3Pipeline"}
    return families.get(size, "StableDiffusionPipeline")


def _networks(size: Size, small: bool, t5: bool) -> Iterator[tuple[str, Any]]:
    """Names and networks without values, one at a time."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    vae, few = (VAE | SMALL, FEW_LAYERS) if small else (VAE, {})
    with torch.device("meta"):
        if size in ("sd15", "sd21v"):
            name = "sd15" if size == "sd15" else "sd21"
            unet = UNET[name] | ({"sample_size": 96} if size == "sd21v" else {}) | (SMALL if small else {})
            yield "vae", AutoencoderKL(**vae)
            yield "unet", UNet2DConditionModel(**unet)
            yield "text_encoder", CLIPTextModel(_clip(TEXT[name] | few, 768))
            return
        if size == "sdxl":
            yield "vae", AutoencoderKL(**(vae | {"sample_size": 1024, "scaling_factor": 0.13025}))
            yield "unet", UNet2DConditionModel(**(SDXL | (SMALL_SDXL if small else {})))
            yield "text_encoder", CLIPTextModel(_clip(CLIP_L | few, 768))
            yield "text_encoder_2", CLIPTextModelWithProjection(_clip(CLIP_BIGG | few, 1280))
            return
        scaled = {"scaling_factor": 1.5305, "shift_factor": 0.0609, "sample_size": 1024, "latent_channels": 16}
        plain = {"use_quant_conv": False, "use_post_quant_conv": False}
        yield "vae", AutoencoderKL(**(vae | scaled | plain))
        yield "transformer", SD3Transformer2DModel(**(SD35_MEDIUM | (SMALL_SD35 if small else {})))
        yield "text_encoder", CLIPTextModelWithProjection(_clip(CLIP_L | few, 768))
        yield "text_encoder_2", CLIPTextModelWithProjection(_clip(CLIP_BIGG | few, 1280))
        if t5:
            large = T5_XXL | (SMALL_T5 if small else {})
            yield "text_encoder_3", T5EncoderModel(T5Config(**large, feed_forward_proj="gated-gelu"))


def _clip(sizes: Mapping[str, Any], projection: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(projection_dim=projection, **sizes)


def _fill(network: torch.nn.Module, noise: torch.Tensor) -> None:
    """Weights of variance 1/(inputs of a neuron), scales of one, biases of zero."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(float(name.endswith("weight")))
            else:
                copies = -(-parameter.numel() // NOISE)
                values = noise.repeat(copies)[: parameter.numel()].view(parameter.shape)
                parameter.copy_(values / (parameter.numel() / len(parameter)) ** 0.5)


def _scheduler(size: Size) -> Any:
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    if size == "sd35m":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    return DDIMScheduler(**BETA, prediction_type="v_prediction" if size == "sd21v" else "epsilon")


if __name__ == "__main__":
    tyro.cli(write_folder, description=__doc__)
