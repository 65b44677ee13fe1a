"""What edits are expected to take on a GPU, counted from configurations of published sizes (see `priors.footprint`).

    python benchmarks/expected_memory.py        # half a minute; nothing is downloaded, and no GPU is asked

GiB, with what `pipelines.memory_plan` adds for what is not counted, for a scene of 500,000 Gaussians with three bands
of harmonics beside the prior.
"""

import tempfile
from pathlib import Path

import torch
from random_prior import NAMES, TEXT, UNET, VAE

from pds_nerfstudio.pipelines.memory_plan import GIB, Demand, plan_memory

GAUSSIANS = 500_000
VALUES = 3 + 3 + 4 + 1 + 3 * 16
"""Of each Gaussian."""
ROWS = {
    "sds, dds, pds, ssd, dvrf, pnr": Demand(),
    "the same, 4 views a step": Demand(views=4),
    "vsd": Demand(adapters=1),
    "piva": Demand(adapters=2),
    "sdedit-refine, idu": Demand(differentiated=False),
}
SIZES = {"512 x 512": (512, 512), "512 x 912": (512, 912), "768 x 768": (768, 768)}


def folder_of(name: str, folder: Path) -> Path:
    """The configurations of a prior in diffusers' layout, and no weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig

    with torch.device("meta"):
        AutoencoderKL(**VAE).save_config(folder / "vae")
        UNet2DConditionModel(**UNET[name]).save_config(folder / "unet")
    CLIPTextConfig(projection_dim=768, **TEXT[name]).save_pretrained(folder / "text_encoder")
    return folder


def main() -> None:
    """Print a table for each prior: encoder in float32, in bfloat16, and run again in the backward pass."""
    scene = [torch.empty(GAUSSIANS, VALUES, device="meta")]
    for name in UNET:
        print(f"\n{NAMES[name]}, U-Net in fp16\n")
        columns = [f"{size}{how}" for size in SIZES for how in ("", ", bf16 encoder", ", encoder run again")]
        print(f"| method | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = folder_of(name, Path(temporary))
            for label, demand in ROWS.items():
                cells = []
                for size in SIZES.values():
                    for vae_dtype, again in ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True)):
                        plan = plan_memory(
                            *(folder, size, demand, scene, float("inf")),
                            dtype=torch.float16,
                            vae_dtype=vae_dtype,
                            recompute_encoder=again,
                        )
                        cells.append(f"{plan.total / GIB:.1f}")
                print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
