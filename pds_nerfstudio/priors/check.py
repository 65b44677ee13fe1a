"""Can this prior be loaded? Answered in milliseconds, before torch, diffusers or any weight is touched.

A prior is named in one of five ways: `toybox`, `toybox-flow` or `studio` (those in this package), a local diffusers
folder, one .safetensors file of a whole model, a hub id `owner/name`, or the folder of a LoRA, which names the prior it
changes. A hub id that lies complete in the local Hugging Face cache is used from there without asking the network.
"""

from importlib.util import find_spec
from pathlib import Path

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.families import (
    INDICES,
    PACKAGED,
    SD,
    Purpose,
    check_purpose,
    family_of,
    missing,
    needed_files,
)
from pds_nerfstudio.priors.fit import check_newer_parts_fit, check_parts_fit
from pds_nerfstudio.priors.folder import (
    camera_layout,
    check_safetensors,
    read_index,
    read_json,
    shards,
    weights_of,
)
from pds_nerfstudio.priors.hub import KNOWN, cached_snapshot, check_hub, download, is_hub_id
from pds_nerfstudio.priors.one_file import check_file, convert, converted, is_one_file, read_header
from pds_nerfstudio.text import meant

TOYBOX = Path(__file__).resolve().parents[1] / "toybox" / "weights" / "prior"
TOYBOX_FLOW = TOYBOX.with_name("flow")
"""The same prior trained as a rectified flow."""
STUDIO = TOYBOX.parents[2] / "studio" / "weights" / "prior"
FOLDERS = {"toybox": TOYBOX, "toybox-flow": TOYBOX_FLOW, "studio": STUDIO}
"""Of the priors in this package."""

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
"""Diffusers' own name for a LoRA's weights."""
LORA_BASE = "lora.json"
"""Beside them, which prior they change: {"base": a prior's name}."""


def check_prior(name: str, purpose: Purpose = "distillation") -> None:
    """Raise a UserError of one sentence if the prior `name` cannot be loaded. Loads nothing and downloads nothing.

    For editing it has to be one that takes the picture to be edited as well (see `priors.instruct`); for refinement
    it may be one that can do nothing else.

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
        # toybox's editing network lies beside its prior
        check_folder(folder, "distillation" if name == "toybox" else purpose)
    elif not is_one_file(base_of(name)):  # which has been checked by its header
        check_hub(base_of(name))


def prior_folder(name: str, purpose: Purpose = "distillation") -> Path:
    """The checked local folder of the prior `name`; a hub id is downloaded into the Hugging Face cache if need be, and
    one file of a whole model is converted into it.

    Of a LoRA, the folder of the prior it changes. Only configurations, tokenizer and safetensors weights are fetched:
    no pickles, no code, no safety checker.
    """
    check_prior(name, purpose)
    folder = local_folder(name)
    if folder is None:
        base = base_of(name)
        folder = convert(Path(base).expanduser()) if is_one_file(base) else download(base, purpose)
        check_folder(folder, purpose)
    return folder


def trains_its_text_encoder(name: str) -> bool:
    """Whether a prior's text encoder can be trained too, or that is not known before its download."""
    folder = local_folder(name)
    return folder is None or family_of(read_index(folder), name).extended


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
        raise UserError(f"No prior is given: name a local diffusers folder, {KNOWN}.")
    if name in PACKAGED:
        folder = FOLDERS[name]
        if not folder.is_dir():
            raise UserError(f"The {name} prior is not in this installation ({folder}): install pds_nerfstudio again.")
        return folder
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
    if not is_hub_id(name):
        close = meant(name, PACKAGED)
        remedy = f"did you mean {close}?" if close else f"correct the path, or use {KNOWN}."
        raise UserError(f"The prior {name} is neither an existing folder nor a hub id of the form owner/name: {remedy}")
    return cached_snapshot(name)


def _require_no_lora(folder: Path) -> None:
    """Raise UserError for a folder of nothing but a LoRA under a name of its own."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1 and read_header(files[0]).kind == "lora":
        raise UserError(
            f"{folder} holds a LoRA, which changes a prior: add it with --pipeline.lora {files[0]}, and give the prior "
            "itself as --pipeline.prior."
        )


def check_folder(folder: Path, purpose: Purpose = "distillation") -> None:
    """Raise a UserError if `folder` is not a complete pipeline of a known family with safetensors weights."""

    def has(file: str) -> bool:
        return (folder / file).is_file()

    index = read_index(folder)
    family = family_of(index, str(folder))
    check_purpose(family, purpose, str(folder))
    files = needed_files(has, str(folder), family, index)
    for listed in [file for file in files if file.endswith(INDICES)]:
        files += (several := shards(folder, listed))
        if not all(map(has, several)):
            raise UserError(missing(several, has, str(folder)))
    configs = {file: read_json(folder / file) for file in files if file.endswith(".json")}
    for file in files:
        if file.endswith(".safetensors"):
            check_safetensors(folder / file)
    if family is not SD:
        check_newer_parts_fit(configs, folder, family, index)
        return
    if camera_layout(folder) == "camera_proj":
        check_safetensors(weights_of(folder, "camera_proj"))
    check_parts_fit(configs, folder, purpose == "editing")
