"""What photographs show, in words: a source prompt to begin with, by a captioning model that lies on this machine.

Any of transformers' image-to-text models, by hub id or folder, in safetensors; nothing is downloaded, and no code of a
repository is run.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError, first_line

CAPTIONERS = (
    "Salesforce/blip-image-captioning-large",
    "Salesforce/blip-image-captioning-base",
    "microsoft/git-large-coco",
    "microsoft/git-base-coco",
)
"""Those that are looked for, the best first."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
LONGEST = 30
"""Tokens of a caption."""


def find_captioner(name: str = "auto") -> Path | None:
    """The folder of a captioning model: the one that is named, or with "auto" a known one in the hub's cache.

    Raises:
        UserError: the one that is named is not there, or not in safetensors.
    """
    if name == "auto":
        return next(filter(None, map(_cached, CAPTIONERS)), None)
    folder = Path(name).expanduser()
    found = folder if folder.is_dir() else _cached(name)
    if found is None or not any((found / file).is_file() for file in WEIGHTS):
        raise UserError(
            f"--caption {name} is no captioning model that lies here in safetensors: give its folder or the id of one "
            "in the hub's cache, or say yourself what the scene shows, with --from."
        )
    return found


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(name, file) for file in ("config.json", *WEIGHTS)]
    except HFValidationError:
        return None
    config, *weights = found
    return Path(config).parent if isinstance(config, str) and any(isinstance(file, str) for file in weights) else None


def propose_caption(folder: Path, photographs: Sequence[Path]) -> str:
    """A prompt that the photographs could have been drawn from: the caption that most of them get.

    Raises:
        UserError: the model cannot be loaded, or a photograph cannot be read.
    """
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except Exception as error:  # transformers raises whatever it stumbles over
        raise UserError(
            f"The captioning model {folder} cannot be loaded ({first_line(error)}): leave --caption out, and say what "
            "the scene shows with --from."
        ) from error
    captions = []
    for path in photographs:
        try:
            with Image.open(path) as image:
                inputs = processor(images=image.convert("RGB"), return_tensors="pt")
        except (OSError, ValueError) as error:
            raise UserError(f"The photograph {path} cannot be read ({error}): replace it.") from error
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        captions += processor.batch_decode(tokens, skip_special_tokens=True)
    return as_prompt(Counter(captions).most_common(1)[0][0])


def as_prompt(caption: str) -> str:
    """A caption in the words that priors are asked in: "a photo of …"."""
    text = " ".join(caption.split()).rstrip(".")
    begins = text.lower().startswith(("a photo", "a picture", "an image", "a close up", "a photograph"))
    return text if begins or not text else f"a photo of {text[0].lower()}{text[1:]}"
