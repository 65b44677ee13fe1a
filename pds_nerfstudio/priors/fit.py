"""Do the parts of a prior's folder belong together? Asked of their configurations alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.families import FLUX, SANA, SD3, SDXL, SUPPORTED, Family, is_left_out
from pds_nerfstudio.priors.folder import camera_layout, is_flow, levels_of

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

LARGEST_SAMPLE = 512
"""Width of latents, of pictures of 4096 pixels."""

MOST_BLOCKS = 8
"""Levels of a VAE."""


def check_parts_fit(configs: dict[str, dict], folder: Path, edits_pictures: bool) -> None:
    unet, vae = configs["unet/config.json"], configs["vae/config.json"]
    scheduler = configs["scheduler/scheduler_config.json"]
    _check_process(scheduler, vae, folder)
    layout = camera_layout(folder)
    known = layout == "original" or unet.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel"
    labelled = unet.get("class_embed_type") or unet.get("num_class_embeds")
    if unet.get("addition_embed_type") or not known or (labelled and layout is None):
        raise UserError(f"The prior {folder} is of no family that is known: use {SUPPORTED}.")
    if edits_pictures and unet.get("in_channels", 4) != 2 * vae.get("latent_channels", 4):
        raise UserError(
            f"The U-Net of {folder} takes {unet.get('in_channels', 4)} channels and so no picture to be edited: use an "
            "InstructPix2Pix, such as timbrooks/instruct-pix2pix."
        )
    if not edits_pictures and unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        raise UserError(
            f"The U-Net of {folder} takes {unet.get('in_channels', 4)} channels and its VAE gives "
            f"{vae.get('latent_channels', 4)}: use a plain text-to-image model, not an inpainting or editing one."
        )
    _check_sizes(unet, vae, folder)
    if unet.get("ip_dim"):
        raise UserError(f"The prior {folder} is an ImageDream, which draws from a picture: use MVDream's weights.")
    asked = unet.get("context_dim" if layout == "original" else "cross_attention_dim")
    _check_width(folder, "U-Net", asked, configs["text_encoder/config.json"].get("hidden_size"))


def _check_process(scheduler: dict, vae: dict, folder: Path) -> None:
    """Raise UserError for noise that is no diffusion's with ᾱ, nor a flow's; or latents that are scaled otherwise."""
    if str(scheduler.get("_class_name")).startswith("EDM") or "sigma_data" in scheduler or vae.get("latents_mean"):
        raise UserError(
            f"The prior {folder} has EDM's noise and latents, as Playground 2.5, which are not supported: use "
            f"{SUPPORTED}."
        )
    prediction_type = scheduler.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES and not is_flow(scheduler):
        raise UserError(
            f"The prior {folder} predicts {prediction_type!r}: use a folder whose prediction_type is one of "
            f"{', '.join(PREDICTION_TYPES)}."
        )


def check_newer_parts_fit(configs: dict[str, dict], folder: Path, family: Family, index: Mapping[str, Any]) -> None:
    denoiser, vae = configs[f"{family.denoiser}/config.json"], configs["vae/config.json"]
    taken, given = denoiser.get("in_channels"), vae.get("latent_channels")
    if family.packed and isinstance(given, int):
        given *= 4
    if taken != given:
        raise UserError(
            f"The {family.denoiser} of {folder} takes {taken} channels and its VAE gives {given}: use a plain "
            "text-to-image model, not an inpainting or editing one."
        )
    _check_sizes(denoiser, vae, folder)
    if family is SDXL:
        _check_process(configs["scheduler/scheduler_config.json"], vae, folder)
    if family is SANA:
        width = configs["text_encoder/config.json"].get("hidden_size")
        _check_width(folder, "transformer", denoiser.get(family.text_width), width)
        return
    if family is FLUX:
        if not denoiser.get("guidance_embeds"):
            raise UserError(
                f"The transformer of {folder} takes no guidance, as FLUX.1-schnell's, which was distilled to a few "
                "steps: use FLUX.1-dev."
            )
        width = configs["text_encoder_2/config.json"].get("d_model")
        _check_width(folder, "transformer", denoiser.get(family.text_width), width)
        return
    clips = [configs[f"{part}/config.json"] for part in family.encoders[:2]]
    widths, pooled = ([clip.get(name) or 0 for clip in clips] for name in ("hidden_size", "projection_dim"))
    if family is SDXL and all(widths):
        _check_width(folder, "U-Net", denoiser.get("cross_attention_dim"), sum(widths))
    if family is SD3:
        if all(pooled):
            _check_width(folder, "transformer", denoiser.get("pooled_projection_dim"), sum(pooled))
        if not is_left_out("text_encoder_3", family, index):
            width = configs["text_encoder_3/config.json"].get("d_model")
            _check_width(folder, "transformer", denoiser.get("joint_attention_dim"), width)


def _check_sizes(denoiser: dict, vae: dict, folder: Path) -> None:
    blocks = levels_of(vae)
    if not (isinstance(blocks, list) and 1 <= len(blocks) <= MOST_BLOCKS):
        raise UserError(f"The VAE of {folder} lists no block_out_channels: its config.json is damaged, fetch it again.")
    size = denoiser.get("sample_size", 64)
    if size is not None and not (type(size) is int and 1 <= size <= LARGEST_SAMPLE):
        raise UserError(
            f"The denoiser of {folder} says that its latents are {str(size)[:40]} wide: its config.json is damaged, "
            f"write sample_size as it was trained (64 for Stable Diffusion 1.x, at most {LARGEST_SAMPLE})."
        )


def _check_width(folder: Path, network: str, asked: Any, given: Any) -> None:
    """Raise UserError where a denoiser asks for other text features than its encoders give, as far as both are said."""
    if isinstance(asked, int) and isinstance(given, int) and asked != given:
        raise UserError(
            f"The {network} of {folder} asks for text features of {asked} numbers and its text encoders give {given}: "
            "take all parts from the same model."
        )
