"""What edits are expected to take on a GPU, counted from configurations of published sizes (see `priors.footprint`).

    python benchmarks/expected_memory.py        # half a minute; nothing is downloaded, and no GPU is asked
    python benchmarks/expected_memory.py --stored 8bit

GiB, with what `pipelines.memory_plan` adds for what is not counted, for a scene of 500,000 Gaussians with three bands
of harmonics beside the prior; and TFLOP of a step, the scene's rendering left out (see `priors.work`).
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import tyro
from random_prior import NAMES, TEXT, UNET, VAE

from pds_nerfstudio.estimates import METHODS
from pds_nerfstudio.pipelines.memory_plan import GIB, Demand, plan_memory
from pds_nerfstudio.priors.few_bits import Weights
from pds_nerfstudio.priors.work import count_work

GAUSSIANS = 500_000
VALUES = 3 + 3 + 4 + 1 + 3 * 16
"""Of each Gaussian."""
ROWS = {
    "sds, dds, pds, ssd, dvrf, dreamcatalyst, pnr": Demand(),
    "the same, 4 views a step": Demand(views=4),
    "vsd": Demand(adapters=1),
    "piva": Demand(adapters=2),
    "sdedit-refine, idu": Demand(differentiated=False),
}
FLUX_ROWS = {"sdedit-refine": Demand(rows=2, differentiated=False, purpose="refinement")}
"""All that FLUX does."""
SIZES = {"512 x 512": (512, 512), "512 x 912": (512, 912), "768 x 768": (768, 768)}
LARGER = {"512 x 512": (512, 512), "768 x 768": (768, 768), "1024 x 1024": (1024, 1024)}

SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD35_MEDIUM: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
"""As the denoisers' own config.json have it; what is not named is diffusers' default."""
SANA_VAE: dict[str, Any] = {
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
}
"""Of SANA's autoencoder (dc-ae-f32c32-sana-1.0); its transformer of 1.6 billion weights is diffusers' default."""


def folder_of(name: str, folder: Path) -> Path:
    """The configurations of a prior in diffusers' layout, and no weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig

    with torch.device("meta"):
        AutoencoderKL(**VAE).save_config(folder / "vae")
        UNet2DConditionModel(**UNET[name]).save_config(folder / "unet")
    CLIPTextConfig(projection_dim=768, **TEXT[name]).save_pretrained(folder / "text_encoder")
    return _indexed(folder, "StableDiffusionPipeline")


def newer_folder_of(name: str, folder: Path) -> Path:
    """The same of Stable Diffusion XL, 3.5 medium, SANA and FLUX.1-dev, whose text encoders wait in main memory."""
    from diffusers import (
        AutoencoderDC,
        AutoencoderKL,
        FluxTransformer2DModel,
        SanaTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
    )

    with torch.device("meta"):
        if name == "SANA 1.6B":
            AutoencoderDC(**SANA_VAE).save_config(folder / "vae")
            SanaTransformer2DModel().save_config(folder / "transformer")
            return _indexed(folder, "SanaPipeline")
        if name == "SDXL":
            AutoencoderKL(**VAE).save_config(folder / "vae")
            UNet2DConditionModel(**SDXL).save_config(folder / "unet")
            return _indexed(folder, "StableDiffusionXLPipeline")
        plain = {"use_quant_conv": False, "use_post_quant_conv": False}
        AutoencoderKL(**VAE, latent_channels=16, **plain).save_config(folder / "vae")
        if name == "FLUX.1-dev":  # diffusers' default is schnell's, to which guidance is added
            FluxTransformer2DModel(guidance_embeds=True).save_config(folder / "transformer")
            return _indexed(folder, "FluxPipeline")
        SD3Transformer2DModel(**SD35_MEDIUM).save_config(folder / "transformer")
    return _indexed(folder, "StableDiffusion3Pipeline")


def _indexed(folder: Path, pipeline: str) -> Path:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return folder


def main(stored: Weights = "full") -> None:
    """Print a table for each prior: encoder in float32, in bfloat16, and run again in the backward pass.

    Args:
        stored: how the denoiser's weights are.
    """
    for name in UNET:
        with tempfile.TemporaryDirectory() as temporary:
            table(f"{NAMES[name]}, U-Net in fp16", folder := folder_of(name, Path(temporary)), SIZES, stored)
            print_work(folder, SIZES)
    for name in ("SDXL", "SD 3.5 medium", "SANA 1.6B"):
        with tempfile.TemporaryDirectory() as temporary:
            table(f"{name}, denoiser in fp16", folder := newer_folder_of(name, Path(temporary)), LARGER, stored)
            print_work(folder, LARGER)
    with tempfile.TemporaryDirectory() as temporary:
        folder = newer_folder_of("FLUX.1-dev", Path(temporary))
        table("FLUX.1-dev, transformer in bf16", folder, LARGER, stored, FLUX_ROWS)
        passes = (count_work(folder, *size).row / 1e12 for size in LARGER.values())
        print("\nTFLOP of one prediction: " + ", ".join(f"{flop:.1f}" for flop in passes))


def print_work(folder: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """TFLOP of a step of a prior, by method and size."""
    work = {label: count_work(folder, *size) for label, size in sizes.items()}
    print(f"\n| TFLOP of a step | {' | '.join(work)} |\n|---|{'---:|' * len(work)}")
    methods = {"sds": "sds-edit", "dds, pds, ssd, dvrf, dreamcatalyst, pnr": "pds-edit", "piva": "piva-edit"}
    for label, method in methods.items():
        cells = [f"{each.of_step(*METHODS[method].formula) / 1e12:.1f}" for each in work.values()]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def table(
    title: str, folder: Path, sizes: dict[str, tuple[int, int]], stored: Weights, rows: Mapping[str, Demand] = ROWS
) -> None:
    """A prior's."""
    scene = [torch.empty(GAUSSIANS, VALUES, device="meta")]
    columns = [f"{size}{how}" for size in sizes for how in ("", ", bf16 encoder", ", encoder run again")]
    print(f"\n{title}\n\n| method | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for label, demand in rows.items():
        cells = []
        for size in sizes.values():
            for vae_dtype, again in ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True)):
                plan = plan_memory(
                    *(folder, size, demand, scene, float("inf")),
                    dtype=torch.float16,
                    vae_dtype=vae_dtype,
                    recompute_encoder=again,
                    stored=stored,
                )
                cells.append(f"{plan.total / GIB:.1f}")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
