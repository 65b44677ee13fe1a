"""Warnings of libraries about each other, which no user of an edit can do anything about, are not printed.

Python's filters are set for this process, and by its environment for those that it starts: `pds edit` runs `ns-train`,
which imports nerfstudio before anything of this package.
"""

import os
import warnings

OF_LIBRARIES = (
    "`torch.jit.script` is deprecated",
    "`torch.cuda.amp.custom_fwd",
    "`torch.cuda.amp.custom_bwd",
    "`torch.cuda.amp.GradScaler",
    "`torch.cuda.amp.autocast",
)
"""How FutureWarnings begin that nerfstudio 1.1.5 gives rise to under torch 2.4 and later."""


def silence_libraries() -> None:
    """Leave these warnings out in this process."""
    for begin in OF_LIBRARIES:
        warnings.filterwarnings("ignore", message=begin.replace(".", r"\."), category=FutureWarning)


def silence_children() -> None:
    """Leave them out in Python processes that this one starts, unless the user has filters of his own."""
    os.environ.setdefault("PYTHONWARNINGS", ",".join(f"ignore:{begin}:FutureWarning" for begin in OF_LIBRARIES))
