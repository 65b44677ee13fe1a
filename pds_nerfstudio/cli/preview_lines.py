"""What `pds preview` proposes to type: the lines that edit the scene as it has edited the photographs."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pds_nerfstudio.next_steps import NextStep, described_in, reconstructing, step

if TYPE_CHECKING:
    from pds_nerfstudio.cli.preview import Preview, Variant
    from pds_nerfstudio.scenes.photographs import Photographs

SDEDIT = "sdedit"
PNR = "pnr"
"""Whichever objective `pnr-edit`, the method of `pds edit`, revises a scene by with this prior."""
RUN = Path("RUN")
"""Stands for a scene that is not reconstructed yet."""


def reconstruction(data: Path | None) -> tuple[str, ...]:
    """What reconstructs the scene that photographs show; of one that `pds toybox` has written, as that says."""
    from pds_nerfstudio.cli.toybox import RECONSTRUCTION

    if data is not None and described_in(data.parent / "edit.json")[-2:] == ("--prior", "toybox"):
        return reconstructing(data.parent, RECONSTRUCTION).command
    return "ns-train", "source-splatfacto", "--data", str(data or "DATA")


def ns_train_line(variant: "Variant", preview: "Preview", photographs: "Photographs") -> str:
    """The command that edits the scene with a variant's settings."""
    name = variant.settings["objective"]
    if name == SDEDIT:
        return "(ns-train sdedit-refine refines a finished edit by SDEdit; none begins with it)"
    suffix = "" if photographs.family == "nerfacto" else "-splat"
    arguments = [f"{name}-edit{suffix}", "--load-dir", str((photographs.run or RUN) / "nerfstudio_models")]
    if preview.src_prompt:
        arguments += ["--pipeline.src-prompt", preview.src_prompt]
    arguments += ["--pipeline.tgt-prompt", variant.tgt_prompt, "--pipeline.prior", preview.prior]
    arguments += added_to_prior(preview, "--pipeline.")
    return shlex.join(["ns-train", *arguments, *settings_of(variant, preview)])


def whole_edit(
    variant: "Variant", preview: "Preview", photographs: "Photographs", of_several: bool = False
) -> NextStep | None:
    """The command that edits, refines, films and measures the scene with a variant's settings; None where no edit
    begins with its objective.

    Args:
        of_several: whether the sheet shows others, of which one may be the better.
    """
    name = variant.settings["objective"]
    if name == SDEDIT:
        return None
    words = ["--from", preview.src_prompt] if preview.src_prompt else []
    words += ["--to", variant.tgt_prompt, "--prior", preview.prior, *added_to_prior(preview, "--")]
    words += ["--method", f"{name}-edit"] if name != PNR else []
    if settings := settings_of(variant, preview):
        words.append(f"--edit-args={shlex.join(settings)}")
    which = f", as number {variant.number} here" if of_several else ""
    return step(f"edit it from start to end{which}", "pds", "edit", photographs.run or RUN, *words)


def added_to_prior(preview: "Preview", flags: str) -> list[str]:
    """LoRAs and textual inversions, behind flags that begin so."""
    both = (("lora", preview.lora), ("embedding", preview.embedding))
    return [word for name, added in both if added for word in (flags + name, *map(str, added))]


def settings_of(variant: "Variant", preview: "Preview") -> list[str]:
    """The flags of `ns-train` with a variant's settings, where they are not what the method has by itself."""
    words = [] if preview.resolution is None else ["--pipeline.resolution", str(preview.resolution)]
    default = type(variant.editor)()
    for field in dataclasses.fields(variant.editor):
        value = getattr(variant.editor, field.name)
        named = field.name in variant.settings  # anything else pnr-edit takes from the same recipe
        if named or (variant.settings["objective"] != PNR and value != getattr(default, field.name)):
            words += [f"--pipeline.objective.{field.name.replace('_', '-')}", str(value)]
    return words
