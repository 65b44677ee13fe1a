"""A depth-conditioned ControlNet (Zhang et al. 2023): tells the adapters which view of a scene they look at.

Piva's paper puts one under both adapters in three dimensions; without it they learn views mixed up, and a scene may
show one side all around (Janus). What it is shown is `images.depth_picture` of the scene's own rendering. The frozen
prior is asked without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import from_json
from pds_nerfstudio.priors.check import TOYBOX, local_folder
from pds_nerfstudio.priors.folder import check_safetensors, family_in, latent_shape

if TYPE_CHECKING:
    from pds_nerfstudio.priors.stable_diffusion import StableDiffusionPrior

TOYBOX_CONTROL = TOYBOX.with_name("control")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
MUST_FIT = ("cross_attention_dim", "block_out_channels", "down_block_types", "layers_per_block", "in_channels")
"""Settings that a ControlNet shares with the U-Net whose features it adds to."""


def check_control(name: str, prior: str) -> None:
    """Raise a UserError of one sentence if the ControlNet `name` cannot be loaded or does not fit `prior`.

    Loads no weights. What is not on this machine yet is checked after its download.
    """
    prior_folder = local_folder(prior)
    if prior_folder is not None and not (family := family_in(prior_folder)).extended:
        raise UserError(
            f"The prior {prior} is a {family.called}, for which no ControlNet is offered: leave --pipeline.control out."
        )
    folder = control_folder(name, download=False)
    if folder is not None:
        check_control_folder(folder, prior_folder)


def control_folder(name: str, download: bool = True) -> Path | None:
    """The folder of a ControlNet: toybox's, a local one, or a hub id's in the cache, downloaded if need be.

    Only its configuration and safetensors weights are fetched. None if it would have to be downloaded and may not be.

    Raises:
        UserError: it is neither a folder nor on the hub, or the hub cannot be reached.
    """
    path = TOYBOX_CONTROL if name == "toybox" else Path(name).expanduser()
    if path.is_dir():
        return path
    if name.count("/") != 1 or path.exists():
        raise UserError(
            f"The ControlNet {name} is neither a folder nor a hub id of the form owner/name: give one for depth, such "
            "as lllyasviel/sd-controlnet-depth for Stable Diffusion 1.5, or toybox for the toybox prior."
        )
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    if isinstance(config, str) and any((Path(config).parent / file).is_file() for file in WEIGHTS):
        return Path(config).parent
    if not download:
        return None
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", WEIGHTS[0]]))
    except Exception as error:  # the hub client's errors and those of its HTTP library share no base class
        raise UserError(
            f"Downloading the ControlNet {name} failed: {first_line(error)}. Give a local folder."
        ) from error


def check_control_folder(folder: Path, prior_folder: Path | None) -> None:
    """Raise a UserError if `folder` holds no ControlNet with safetensors weights, or one of another U-Net."""
    config = _config(folder)
    if config.get("_class_name") != "ControlNetModel":
        raise UserError(
            f"{folder} holds a {config.get('_class_name') or 'nameless model'}, not a ControlNetModel: give one "
            "for depth, in diffusers' format."
        )
    weights = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if weights is None:
        raise UserError(f"The ControlNet {folder} has no {WEIGHTS[0]}: only safetensors are loaded.")
    check_safetensors(weights)
    if prior_folder is not None:
        _check_fits(folder, config, _config(prior_folder / "unet"), latent_shape(prior_folder)[0])


def _check_fits(folder: Path, config: Mapping[str, Any], unet: Mapping[str, Any], stride: int) -> None:
    """Raise UserError for a ControlNet of another U-Net.

    Args:
        unet: the configuration of the prior's.
        stride: pixels per latent of the prior's VAE.
    """
    for setting in MUST_FIT:
        own, other = (_listed(of.get(setting)) for of in (config, unet))
        if setting in config and setting in unet and own != other:
            raise UserError(
                f"The ControlNet {folder} was made for another U-Net ({setting} {own} instead of {other}): take one "
                "for this prior."
            )
    shrinks = 2 ** (len(config.get("conditioning_embedding_out_channels") or ()) - 1)
    if shrinks != stride:
        raise UserError(
            f"The ControlNet {folder} shrinks its picture {shrinks} times and the prior's VAE {stride} times: take one "
            "for this prior."
        )


def load_control(name: str, prior: "StableDiffusionPrior") -> Any:
    """diffusers' ControlNetModel, frozen, beside the prior's U-Net in device and precision.

    Raises:
        UserError: see `check_control`.
    """
    from diffusers import ControlNetModel  # pyright: ignore[reportPrivateImportUsage]

    folder = control_folder(name)
    assert folder is not None
    check_control_folder(folder, None)
    _check_fits(folder, _config(folder), prior.unet.config, prior.latent_stride)
    variant = None if (folder / WEIGHTS[0]).is_file() else "fp16"
    try:
        network = ControlNetModel.from_pretrained(
            folder, variant=variant, use_safetensors=True, local_files_only=True, torch_dtype=prior.unet.dtype
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"The ControlNet {folder} cannot be loaded ({first_line(error)}).") from error
    return network.to(prior.device).requires_grad_(False).eval()  # pyright: ignore[reportCallIssue, reportArgumentType]


def _listed(value: Any) -> Any:
    """A setting as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = from_json(folder / "config.json")
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{folder} has no readable config.json: give a folder in diffusers' format.")
    return content
