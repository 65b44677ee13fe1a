"""Files of tensors, read without running what a pickle may hold."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from pds_nerfstudio.errors import UserError


def load_tensors(path: Path, remedy: str) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote, by torch's safe loading; its tensors stay on the disk until looked at.

    Args:
        remedy: how to go on without it, for the message.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
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
