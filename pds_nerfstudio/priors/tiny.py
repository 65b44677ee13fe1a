"""A tiny encoder in place of a VAE's (diffusers' AutoencoderTiny; Bohan 2023): nearly its latents, at a fraction of its
cost forward and backward.

Its latents are scaled as the U-Net's are, which is how such encoders are published. The trap: an encoder fits one VAE,
and nothing in its files says which.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.folder import check_safetensors, latent_shape, read_json

TOYBOX_ENCODER = TOYBOX.with_name("encoder")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def check_encoder(name: str, prior_folder: Path | None = None) -> None:
    """Raise a UserError of one sentence where a tiny encoder cannot be loaded or does not fit the prior's VAE.

    Loads no weights. What is not on this machine yet, encoder or prior, is checked after its download.
    """
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
    if prior_folder is not None:
        _check_fits(name, read_json(folder / "config.json"), *latent_shape(prior_folder))


def load_tiny(name: str, device: torch.device, dtype: torch.dtype, latent_stride: int, latent_channels: int) -> Any:
    """The AutoencoderTiny `name`: `toybox`, a local folder, or a hub id (downloaded once).

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
        raise UserError(
            f"The encoder {name} cannot be loaded ({first_line(error)}): name an AutoencoderTiny."
        ) from error
    _check_fits(name, tiny.config, latent_stride, latent_channels)
    return tiny.to(device).requires_grad_(False).eval()


def _check_fits(name: str, config: Mapping[str, Any], latent_stride: int, latent_channels: int) -> None:
    if (kind := config.get("_class_name")) != "AutoencoderTiny":
        raise UserError(f"The encoder {name} is no AutoencoderTiny but {kind or 'nameless'}: give one that is.")
    # What a configuration leaves out is diffusers' default, the published TAESD's: four resolutions, four channels.
    stride = 2 ** (len(config.get("encoder_block_out_channels", range(4))) - 1)
    channels = config.get("latent_channels", 4)
    if (stride, channels) != (latent_stride, latent_channels):
        raise UserError(
            f"The encoder {name} makes {channels} channels of {stride} pixels and the prior's VAE {latent_channels} of "
            f"{latent_stride}: give one that was made for this prior."
        )


def _folder(name: str) -> Path | None:
    path = TOYBOX_ENCODER if name == "toybox" else Path(name).expanduser()
    return path if path.is_dir() else None
