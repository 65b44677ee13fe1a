"""From a prior's name to its networks in memory: which family a folder belongs to, and how its parts are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.priors.check import LORA_WEIGHTS, lora_folder, prior_folder
from pds_nerfstudio.priors.extras import LoraFile, lora_file
from pds_nerfstudio.priors.families import FLUX, SANA, SD, SD3, SDXL, Purpose, is_left_out
from pds_nerfstudio.priors.few_bits import Weights, to_few_bits
from pds_nerfstudio.priors.folder import camera_layout, family_in, read_index, reads_framing
from pds_nerfstudio.priors.latent import LatentPrior
from pds_nerfstudio.priors.lora import fuse_lora
from pds_nerfstudio.priors.parts import load_part, load_scheduler, load_tokenizer
from pds_nerfstudio.priors.tiny import load_tiny

try:
    from diffusers import AutoencoderDC, AutoencoderKL, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
    from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, Gemma2Model, T5EncoderModel
except (ImportError, RuntimeError) as error:  # RuntimeError: their lazy imports wrap whatever went wrong inside
    raise UserError(
        f"The diffusion prior needs diffusers and transformers, which do not import here "
        f"({first_line(error)}): pip install --upgrade diffusers transformers"
    ) from error

ENCODERS = {
    "sd": (CLIPTextModel,),
    "sdxl": (CLIPTextModel, CLIPTextModelWithProjection),
    "sd3": (CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel),
    "sana": (Gemma2Model,),
    "flux": (CLIPTextModel, T5EncoderModel),
}
"""The classes of a family's text encoders, whatever a folder's index says."""
CLIP = (CLIPTextModel, CLIPTextModelWithProjection)
WIDE = (SANA, FLUX)
"""Families that were trained in bfloat16, and whose numbers float16 cannot hold."""


def load_prior(
    name: str,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    vae_dtype: torch.dtype = torch.float32,
    recompute_encoder: bool = False,
    encoder: str | None = None,
    channels_last: bool = False,
    compiled: bool = False,
    purpose: Purpose = "distillation",
    loras: Sequence[str] = (),
    embeddings: Sequence[Path] = (),
    weights: Weights = "full",
) -> Any:
    """Load the prior `name`: `toybox`, a local diffusers folder, one file of a whole model (converted once), a hub id
    (downloaded once), or a LoRA's folder.

    Only safetensors are read, no code of the folder is run, and no safety checker is loaded. A LoRA
    is added to its prior's weights before those are brought to the device.

    Args:
        dtype: precision of denoiser and text encoders; None is float32 on CPUs, on CUDA bfloat16 for a SANA
            and a FLUX and float16 for others.
        vae_dtype: precision of the VAE, float32 or bfloat16.
        recompute_encoder: see `LatentPrior`.
        encoder: a tiny encoder in place of the VAE's (see `priors.tiny`).
        channels_last: lay images out with their channels last, which half-precision convolutions on GPUs like.
        compiled: torch.compile denoiser and encoder; their first calls then take minutes.
        purpose: for "editing" the U-Net of an InstructPix2Pix is expected (see `priors.instruct`); a FLUX is loaded
            for "refinement" alone.
        loras: further ones, PATH[:weight] each, added in this order (see `priors.extras`).
        embeddings: files of textual inversions, whose names prompts may then hold.
        weights: how those of the denoiser and of T5 are stored (see `priors.few_bits`).

    Returns:
        the `LatentPrior` of the folder's family: a `StableDiffusionPrior`, a `MultiViewPrior` where its U-Net takes
        cameras, an `SDXLPrior`, an `SD3Prior`, a `SanaPrior` or a `FluxPrior`.

    Raises:
        UserError: `name` cannot be loaded (see `check_prior`), or the VAE is asked to run in float16.
    """
    if vae_dtype == torch.float16:
        raise UserError("vae_dtype is float16, in which Stable Diffusion's VAE overflows: use float32 or bfloat16.")
    device = torch.device(device)
    folder, lora = prior_folder(name, purpose), lora_folder(name)
    if dtype is None:
        half = torch.bfloat16 if family_in(folder) in WIDE else torch.float16
        dtype = half if device.type == "cuda" else torch.float32
    added = [] if lora is None else [LoraFile(lora / LORA_WEIGHTS, 1.0)]
    added += [lora_file(named) for named in loras]
    prior = _load(folder, device, dtype, vae_dtype, recompute_encoder, purpose == "editing")
    for file in added:
        fuse_lora(prior, file.path, file.weight)
    if embeddings:
        add_words(prior, embeddings, name)
    if weights != "full":
        large = [encoder for encoder in prior.text_parts().values() if isinstance(encoder, T5EncoderModel)]
        for network in (prior.denoiser, *large):
            to_few_bits(network, weights)
    prior.denoiser.to(device)  # not before: a GPU that holds it so may not hold all of it, or a LoRA beside it
    if encoder is not None:
        prior.tiny = load_tiny(encoder, device, vae_dtype, prior.latent_stride, prior.latent_channels)
    for network in (prior.denoiser, (prior.tiny or prior.vae).encoder):
        if channels_last:
            network.to(memory_format=torch.channels_last)
        if compiled:
            network.compile()
    return prior


def add_words(prior: LatentPrior, embeddings: Sequence[Path], name: str) -> None:
    """Let prompts hold textual inversions.

    Raises:
        UserError: the prior's family knows none, or one does not fit (see `words.add_word`).
    """
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior
    from pds_nerfstudio.priors.words import add_word

    if not isinstance(prior, StableDiffusionPrior):
        raise UserError(f"The prior {name} takes no textual inversions: leave --pipeline.embedding out.")
    for path in embeddings:
        add_word(prior, path.expanduser())


def load_vae(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The autoencoder of a checked folder alone."""
    kind = AutoencoderDC if family_in(folder) is SANA else AutoencoderKL
    return load_part(kind, folder, "vae", torch_dtype=dtype)


def _load(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    recompute_encoder: bool,
    edits_pictures: bool,
) -> LatentPrior:
    """The prior of a checked folder, its denoiser still in main memory."""
    family, index = family_in(folder), read_index(folder)
    parts: dict[str, Any] = {
        "vae": load_vae(folder, vae_dtype).to(device),
        "scheduler": load_scheduler(folder),
        "recompute_encoder": recompute_encoder,
    }
    for part, kind in zip(family.encoders, ENCODERS[family.name], strict=True):
        if is_left_out(part, family, index):
            continue
        network = load_part(kind, folder, part, torch_dtype=dtype)
        # Those of larger families are brought to the GPU when they read.
        parts[part] = network.to(device) if family is SD else network
        tokenizer = part.replace("text_encoder", "tokenizer")
        parts[tokenizer] = load_tokenizer(folder, tokenizer, kind in CLIP)
    if family is SDXL:
        from pds_nerfstudio.priors.sdxl import SDXLPrior

        unet = load_part(UNet2DConditionModel, folder, "unet", torch_dtype=dtype)
        return SDXLPrior(unet=unet, empty_is_zero=index.get("force_zeros_for_empty_prompt", True), **parts)
    if family is SD3:
        from pds_nerfstudio.priors.sd3 import SD3Prior

        transformer = load_part(SD3Transformer2DModel, folder, "transformer", torch_dtype=dtype)
        return SD3Prior(transformer=transformer, **parts)
    if family is SANA:
        from pds_nerfstudio.priors.sana import SanaPrior

        transformer = load_part(SanaTransformer2DModel, folder, "transformer", torch_dtype=dtype)
        return SanaPrior(transformer=transformer, **parts)
    if family is FLUX:
        from pds_nerfstudio.priors.flux import FluxPrior

        transformer = load_part(FluxTransformer2DModel, folder, "transformer", torch_dtype=dtype)
        return FluxPrior(transformer=transformer, **parts)
    if edits_pictures or camera_layout(folder) is None:
        from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

        unet = load_part(UNet2DConditionModel, folder, "unet", torch_dtype=dtype)
        return StableDiffusionPrior(unet=unet, **parts)
    from pds_nerfstudio.priors.camera_unet import load_unet
    from pds_nerfstudio.priors.multi_view import MultiViewPrior

    return MultiViewPrior(unet=load_unet(folder, dtype), framing=reads_framing(folder), **parts)
