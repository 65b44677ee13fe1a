"""What a prior's diffusers folder says of itself, by its configurations and headers; nothing here imports torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.files import from_json
from pds_nerfstudio.priors.families import SD, Family, family_of, missing

CAMERA_SETTINGS = "camera.json"
"""Beside the parts of a prior that takes cameras: {"framing": true} where it was trained with aim and distance."""

CameraLayout = Literal["projection", "camera_proj", "original"]
"""How a folder keeps a U-Net that takes cameras; see `camera_unet`."""

MVDREAMS_SIZE = 32
"""Latents a side that MVDream was trained at."""
CAMERA_NUMBERS = 16
"""As `pds_nerfstudio.objectives.cameras` has it, whose import would cost that of torch."""

SHARD = re.compile(r"[\w.-]+-of-\d+\.safetensors")


def read_index(folder: Path) -> dict:
    """What a folder's `model_index.json` says.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not (folder / "model_index.json").is_file():
        raise UserError(missing(["model_index.json"], lambda file: False, str(folder)))
    return read_json(folder / "model_index.json")


def family_in(folder: Path) -> Family:
    """The family of a folder.

    Raises:
        UserError: it is none that is known.
    """
    return family_of(read_index(folder), str(folder))


def latent_shape(folder: Path) -> tuple[int, int]:
    """Pixels per latent and channels of a latent, by the configuration of a prior's VAE."""
    vae = read_json(folder / "vae" / "config.json")
    return 2 ** (len(levels_of(vae)) - 1), vae.get("latent_channels", 4)


def levels_of(vae: Mapping[str, Any]) -> Any:
    """Channels of each level of an autoencoder, as its configuration lists them; None where it does not.

    An AutoencoderKL has one list and SANA's AutoencoderDC one for each half.
    """
    return vae.get("block_out_channels") or vae.get("encoder_block_out_channels")


def size_multiple(folder: Path) -> int:
    """What height and width of a prior's pictures are multiples of, in pixels."""
    stride, _ = latent_shape(folder)
    family = family_in(folder)
    if family.packed:
        return 2 * stride
    whole = family.denoiser == "unet"
    patch = 1 if whole else read_json(folder / family.denoiser / "config.json").get("patch_size", 2)
    return stride * patch


def trained_size(folder: Path) -> int:
    """Pixels a side of the pictures that a prior was trained with."""
    family = family_in(folder)
    config = read_json(folder / family.denoiser / "config.json")
    default = MVDREAMS_SIZE if camera_layout(folder) == "original" else family.sample_size
    return (config.get("sample_size") or config.get("image_size") or default) * latent_shape(folder)[0]


def camera_layout(folder: Path) -> CameraLayout | None:
    """How the folder's U-Net takes cameras; None where it takes none."""
    if family_in(folder) is not SD:
        return None
    unet = read_json(folder / "unet" / "config.json")
    if unet.get("camera_dim") == CAMERA_NUMBERS:
        return "original"
    if unet.get("class_embed_type") == "projection":
        return "projection" if unet.get("projection_class_embeddings_input_dim") == CAMERA_NUMBERS else None
    return "camera_proj" if (folder / "camera_proj" / "config.json").is_file() else None


def reads_framing(folder: Path) -> bool:
    """Whether the folder's U-Net was trained with aim and distance in its cameras."""
    settings = folder / CAMERA_SETTINGS
    return settings.is_file() and bool(read_json(settings).get("framing"))


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is that of a flow."""
    kind = str(scheduler.get("_class_name", ""))
    return kind.startswith("FlowMatch") or "flow" in str(scheduler.get("prediction_type") or "")


def weights_of(folder: Path, part: str) -> Path:
    """The safetensors file of a part of a diffusers folder; of the U-Net's kind, whole or in half precision.

    Raises:
        UserError: there is none.
    """
    name = "diffusion_pytorch_model"
    paths = [folder / part / f"{name}{variant}.safetensors" for variant in ("", ".fp16")]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise UserError(missing([f"{part}/{name}.safetensors"], lambda file: (folder / file).is_file(), str(folder)))
    return found


def shards(folder: Path, index: str) -> list[str]:
    """The files, relative to the folder, that a list of weights names."""
    listed = read_json(folder / index).get("weight_map")
    names = list(listed.values()) if isinstance(listed, dict) else []
    if not names or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
        raise UserError(damaged(folder / index, "it has to list safetensors files beside it"))
    return [f"{Path(index).parent}/{name}" for name in sorted(set(names))]


def check_safetensors(path: Path) -> None:
    """Raise a UserError if the file is no safetensors file, or not as long as its header says.

    Only the header is read, so that gigabytes are checked in milliseconds.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        if file.read(8) == b"version ":
            raise UserError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder.")
    try:
        with safe_open(path, "numpy"):
            pass
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(damaged(path, first_line(error))) from None


def read_json(path: Path) -> dict:
    """A configuration's content, or a UserError of one sentence."""
    try:
        content = from_json(path)
    except (ValueError, OSError):
        content = None
    if not isinstance(content, dict):
        raise UserError(damaged(path, "not readable as JSON"))
    return content


def damaged(path: Path, what: str) -> str:
    return f"{path} is damaged ({what}): copy or download it again."
