"""Warnings of libraries about each other, and remarks of nerfstudio's, with which no user of an edit can do anything,
are not printed.

Python's filters are set for this process, and by its environment for those that it starts: `pds edit` runs `ns-train`,
which imports nerfstudio before anything of this package.
"""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

OF_LIBRARIES = {
    "`torch.jit.script` is deprecated": FutureWarning,
    "`torch.cuda.amp.custom_fwd": FutureWarning,
    "`torch.cuda.amp.custom_bwd": FutureWarning,
    "`torch.cuda.amp.GradScaler": FutureWarning,
    "`torch.cuda.amp.autocast": FutureWarning,
    "Using a non-tuple sequence for multidimensional indexing": UserWarning,
    "To copy construct from a tensor": UserWarning,
}
"""How the warnings begin that nerfstudio 1.1.5 gives rise to under torch 2.4 and later, and their categories."""

REMARKS = (
    "[yellow] Dataset is overriding ",
    "Auto image downscale factor of 1",
    "Mixed precision is disabled for CPU training",
    "[NOTE] Not running eval iterations",
    "disabled local writer",
)
"""How what nerfstudio prints of every run begins: lists of all views, and what is as it should be."""


def silence_libraries() -> None:
    """Leave these warnings out in this process."""
    for begin, category in OF_LIBRARIES.items():
        warnings.filterwarnings("ignore", message=begin.replace(".", r"\."), category=category)


def silence_children() -> None:
    """Leave them out in Python processes that this one starts, unless the user has filters of his own."""
    filters = ",".join(f"ignore:{begin}:{category.__name__}" for begin, category in OF_LIBRARIES.items())
    os.environ.setdefault("PYTHONWARNINGS", filters)


def leave_out_remarks() -> None:
    """Let nerfstudio's console print none of its `REMARKS`. Safe to call again."""
    from nerfstudio.utils.rich_utils import CONSOLE

    for name in ("log", "print"):
        method = getattr(CONSOLE, name)
        if not hasattr(method, "__wrapped__"):
            setattr(CONSOLE, name, _without_remarks(method))


def _without_remarks(say: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(say)
    def wrapped(*objects: Any, **settings: Any) -> None:
        if len(objects) == 1 and isinstance(objects[0], str) and objects[0].startswith(REMARKS):
            return
        if say.__name__ == "log":  # which names the file and the line that it was called from
            settings["_stack_offset"] = settings.get("_stack_offset", 1) + 1
        say(*objects, **settings)

    return wrapped
