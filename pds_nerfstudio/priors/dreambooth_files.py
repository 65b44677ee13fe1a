"""What `pds dreambooth` keeps of a training: its checkpoint, and the prior that it has made."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from pds_nerfstudio.checkpoints import load_tensors
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole, written
from pds_nerfstudio.priors.check import local_folder
from pds_nerfstudio.priors.dreambooth_settings import CHECKPOINT, DreamBooth
from pds_nerfstudio.priors.lora import save_lora
from pds_nerfstudio.priors.recipe import COMMON, recipe_of
from pds_nerfstudio.text import in_rich

if TYPE_CHECKING:
    from pds_nerfstudio.priors.dreambooth import Learner


def save_checkpoint(out: Path, step: int, learner: "Learner", optimizer: Any, scaler: Any) -> None:
    """The whole state of the training; the previous one is replaced when this is complete.

    Args:
        scaler: of the loss, in float16; None in other precisions.
    """
    state = {"step": step, "weights": learner.state_dict(), "optimizer": optimizer.state_dict()}
    if scaler is not None:
        state["scaler"] = scaler.state_dict()
    with written(out / CHECKPOINT) as partial:
        torch.save(state, partial)


def restored(settings: DreamBooth, out: Path, learner: "Learner", optimizer: Any, scaler: Any, console: Any) -> int:
    """Steps done before; what was learned in them is taken over."""
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    remedy = f"remove {path.name} to begin this training again, or give a folder that is new"
    state = load_tensors(path, remedy)
    kinds = {"step": int, "weights": dict, "optimizer": dict}
    if other := [name for name, kind in kinds.items() if not isinstance(state.get(name), kind)]:
        raise UserError(f"{path} is damaged (it has no {other[0]}): {remedy}.")
    if state["step"] > settings.steps:
        raise UserError(f"The training in {out} has had {state['step']} steps already: give --steps as many, or more.")
    try:
        learner.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        if scaler is not None and "scaler" in state:
            scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} does not fit this training ({reason}): {remedy}.") from error
    console.print(f"Continuing the training in {in_rich(out)} from step {state['step']}.")
    return state["step"]


def write_prior(settings: DreamBooth, learner: "Learner", out: Path) -> None:
    """A LoRA's folder, or a whole diffusers folder."""
    if settings.train == "lora":
        folder = local_folder(settings.prior)
        local = folder is not None and Path(settings.prior).expanduser().is_dir()
        base = str(folder.resolve()) if folder is not None and local else settings.prior
        save_lora(out, base, learner.prior, learner.networks)
    else:
        learner.prior.save(out)
        recipe = recipe_of(settings.prior).path
        if recipe != COMMON:
            write_whole(out / recipe.name, recipe.read_text(encoding="utf-8"))


@contextmanager
def saving(out: Path, what: str) -> Iterator[None]:
    """Within this block a file that cannot be written ends the training in one sentence."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, UserError) as error:
        before = out / CHECKPOINT
        at = f"step {torch.load(before, weights_only=True)['step']}" if before.is_file() else "its beginning"
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{what} could not be written to {out} ({reason}): free some space there and run the same command again, "
            f"which continues from {at}."
        ) from error
