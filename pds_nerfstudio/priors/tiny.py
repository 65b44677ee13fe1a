"""A tiny encoder in place of a VAE's (diffusers' AutoencoderTiny; Bohan 2023): nearly its latents, at a fraction of its
cost forward and backward.

Its latents are scaled as the U-Net's are, which is how such encoders are published. The trap: an encoder fits one VAE,
and nothing in its files says which.
"""

from pathlib import Path
from typing import Any

import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.check import check_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"


def check_encoder(name: str) -> None:
    """Raise a UserError of one sentence where a local tiny encoder cannot be loaded; a hub id is left to the hub."""
    folder = _folder(name)
    if folder is None:
        if name.count("/") != 1 or name.startswith(("/", ".", "~")):
            raise UserError(
                f"The encoder {name} is neither an existing folder nor a hub id of the form owner/name: correct it, or "
                "leave --pipeline.encoder out to use the VAE's own."
            )
        return
    for file in ("config.json", WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"The encoder {name} has no {file}: give a folder that holds an AutoencoderTiny.")
    check_safetensors(folder / WEIGHTS)


def load_tiny(name: str, device: torch.device, dtype: torch.dtype, latent_stride: int, latent_channels: int) -> Any:
    """The AutoencoderTiny `name`: a local folder, or a hub id (downloaded once).

    Raises:
        UserError: it cannot be loaded, or has not the VAE's stride and channels.
    """
    from diffusers import AutoencoderTiny  # pyright: ignore[reportPrivateImportUsage]

    check_encoder(name)
    folder = _folder(name)
    try:
        tiny: Any = AutoencoderTiny.from_pretrained(
            folder or name, use_safetensors=True, local_files_only=folder is not None, torch_dtype=dtype
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"The encoder {name} cannot be loaded ({reason}): name an AutoencoderTiny.") from error
    stride = 2 ** (len(tiny.config.encoder_block_out_channels) - 1)
    if (stride, tiny.config.latent_channels) != (latent_stride, latent_channels):
        raise UserError(
            f"The encoder {name} makes {tiny.config.latent_channels} channels of {stride} pixels and the prior's VAE "
            f"{latent_channels} of {latent_stride}: give one that was made for this prior."
        )
    return tiny.to(device).requires_grad_(False).eval()


def _folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path if path.is_dir() else None
