"""Priors of published sizes with random weights: they cost what trained ones do, and nothing is downloaded.

The figures are those of the folders' own `unet/config.json`, `vae/config.json` and `text_encoder/config.json`, as
published with Stable Diffusion 1.5 and 2.1 base; what is not named here is diffusers' default, as it is there.
"""

import argparse
from typing import Any

import torch

from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
UNET: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
    "sd21": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "sample_size": 64,
    },
}
TEXT = {
    "sd15": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "sd21": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}
SMALL = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
"""Instead of the sizes above, for a test of the scripts themselves."""
NAMES = {"sd15": "SD 1.5", "sd21": "SD 2.1 base"}


class _BlankTokenizer:
    """Stands in for CLIP's tokenizer, whose vocabulary no configuration holds; text costs by its length."""

    model_max_length = 77

    def __call__(self, prompt: str, **settings: object) -> argparse.Namespace:
        return argparse.Namespace(input_ids=torch.zeros(1, 77, dtype=torch.int64) if settings.get("padding") else [])


def random_prior(
    name: str,
    device: str,
    dtype: torch.dtype,
    vae_dtype: torch.dtype = torch.float32,
    recompute_encoder: bool = False,
    small: bool = False,
) -> StableDiffusionPrior:
    """A prior of the size `name`, of NAMES, on `device`; on "meta" it has shapes and no values.

    Args:
        small: 32 channels throughout instead of the published ones; strides and depths stay.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text: dict[str, Any] = TEXT[name] | ({"num_hidden_layers": 1} if small else {})
    with torch.device(device):
        networks = {
            "vae": (AutoencoderKL(**(VAE | (SMALL if small else {}))), vae_dtype),
            "unet": (UNet2DConditionModel(**(UNET[name] | (SMALL if small else {}))), dtype),
            "text_encoder": (CLIPTextModel(CLIPTextConfig(projection_dim=768, **text)), dtype),
        }
    for network, precision in networks.values():
        torch.nn.Module.to(network, precision)  # diffusers' own advises to load in that precision
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return StableDiffusionPrior(
        **{part: network for part, (network, _) in networks.items()},
        tokenizer=_BlankTokenizer(),
        scheduler=scheduler,
        recompute_encoder=recompute_encoder,
    )
