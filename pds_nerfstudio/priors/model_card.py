"""The README.md of a prior that was made here: what it learned, from what, how, and by which versions."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pds_nerfstudio.files import write_whole
from pds_nerfstudio.priors.dreambooth_settings import CARD, DreamBooth, record

PACKAGES = ("pds-nerfstudio", "torch", "diffusers", "transformers", "peft", "accelerate")


def write_card(out: Path, settings: DreamBooth, facts: Mapping[str, Any]) -> None:
    """Write OUT/README.md, with the header that the Hugging Face hub reads."""
    tags = ["dreambooth", "text-to-image", *(["lora"] if settings.train == "lora" else [])]
    shown = {name: value for name, value in record(settings, ()).items() if name != "photographs"}
    shown |= {name.replace(" ", "_"): value for name, value in facts.items()}
    versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    kind = "Low-rank changes (LoRA) of" if settings.train == "lora" else "All weights of the U-Net of"
    text = f"""---
library_name: diffusers
base_model: {settings.prior}
instance_prompt: "{settings.instance_prompt}"
tags: [{", ".join(tags)}]
---

# {settings.instance_prompt}

{kind} `{settings.prior}`, which learned {facts["photographs"]} photographs as "{settings.instance_prompt}" by
DreamBooth (Ruiz et al. 2023){_preserved(settings)}.

To edit a scene with it: `--pipeline.prior {out}`, and `{settings.token}` in both prompts.

| setting | value |
|---|---|
{_rows(shown)}

| package | version |
|---|---|
{_rows(versions)}

`training/` holds what is needed to continue (`checkpoint.pt`), the class images and the sample sheets; nothing that
uses this prior reads it.
"""
    write_whole(out / CARD, text)


def _preserved(settings: DreamBooth) -> str:
    if not settings.class_images:
        return ", without prior preservation"
    return f', while "{settings.class_prompt}" was preserved'


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in values.items())
