"""Warnings of libraries about each other, which no user of an edit can do anything about, are not printed.

Python's filters are set for this process, and by its environment for those that it starts: `pds edit` runs `ns-train`,
which imports nerfstudio before anything of this package.
"""

import os
import warnings

OF_LIBRARIES = {
    "`torch.jit.script` is deprecated": FutureWarning,
    "`torch.cuda.amp.custom_fwd": FutureWarning,
    "`torch.cuda.amp.custom_bwd": FutureWarning,
    "`torch.cuda.amp.GradScaler": FutureWarning,
    "`torch.cuda.amp.autocast": FutureWarning,
    "Using a non-tuple sequence for multidimensional indexing": UserWarning,
}
"""How the warnings begin that nerfstudio 1.1.5 gives rise to under torch 2.4 and later, and their categories."""


def silence_libraries() -> None:
    """Leave these warnings out in this process."""
    for begin, category in OF_LIBRARIES.items():
        warnings.filterwarnings("ignore", message=begin.replace(".", r"\."), category=category)


def silence_children() -> None:
    """Leave them out in Python processes that this one starts, unless the user has filters of his own."""
    filters = ",".join(f"ignore:{begin}:{category.__name__}" for begin, category in OF_LIBRARIES.items())
    os.environ.setdefault("PYTHONWARNINGS", filters)
