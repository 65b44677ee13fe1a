"""Files of tensors, read without running what a pickle may hold."""

import importlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pds_nerfstudio.errors import UserError


def load_tensors(path: Path, remedy: str) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote, by torch's safe loading; its tensors stay on the disk until looked at.

    Args:
        remedy: how to go on without it, for the message.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    allow_numpy_scalars_in_checkpoints()
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is damaged (it is no file of torch's, or not all of it): {remedy}.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or holds more than tensors and numbers, which could run code: {remedy}."
        ) from error
    except Exception as error:  # of a damaged file torch's unpickler raises whatever it stumbles over
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): {remedy}.") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} is damaged (it holds {type(loaded).__name__}, no dictionary): {remedy}.")
    return loaded


def allow_numpy_scalars_in_checkpoints() -> None:
    """Let `torch.load(weights_only=True)` read nerfstudio's own checkpoints.

    The schedulers' state holds learning rates as numpy scalars, which torch >= 2.6 refuses by default, so that
    ns-viewer, -render, -export, -eval and resuming all fail (nerfstudio #3683, #3702, #3711). Numbers run no code: they
    are named as safe and safe loading stays on. Can go when nerfstudio saves plain floats *and* no older checkpoint
    matters.
    """
    multiarray: Any = importlib.import_module(
        "numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray"
    )
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool")]
    torch.serialization.add_safe_globals([np.dtype, multiarray.scalar, *dtypes])
    # A checkpoint written under the other major version of numpy spells the same function differently.
    other = "numpy.core.multiarray.scalar" if hasattr(np, "_core") else "numpy._core.multiarray.scalar"
    try:
        torch.serialization.add_safe_globals([(multiarray.scalar, other)])  # pyright: ignore[reportArgumentType]
        torch.serialization.get_safe_globals()
    except (AttributeError, TypeError):  # torch < 2.5 knows no aliases
        pass
