"""Where a network is and how precise, as its first parameters say.

Why not diffusers' own `device` and `dtype`: each goes through every module in search of hooks, of which this package
sets none. A step asks fifteen times, which would take 2 ms each for Stable Diffusion's U-Net, while the GPU has nothing
to do.
"""

from typing import Any

import torch


def device_of(network: Any) -> torch.device:
    """Where its parameters are."""
    return next(network.parameters()).device


def dtype_of(network: Any) -> torch.dtype:
    """What it computes in, also where some of its weights are stored as bytes."""
    return next(parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())
