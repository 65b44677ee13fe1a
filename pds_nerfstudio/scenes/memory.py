"""How many rays to render at once: what a ray keeps for its backward pass, measured, against the free memory."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

FREE_SHARE = 0.25
"""The share of the free memory that one chunk's activations may take. By the time the first chunk is computed again,
Stable Diffusion's encoder has kept and given back 2 to 3 GiB."""
CHUNK_BYTES = {"cpu": 2 * 2**30, "cuda": 16 * 2**30}
"""The most that they may take, by where they are."""
FEWEST_RAYS, MOST_RAYS = 64, {"cpu": 4096, "cuda": 32768}
"""A chunk of any size is thousands of operations of torch's, and a GPU has each of them launched, however few the
rays."""
MOST_UNSEEN = 4096
"""nerfacto's own training batch, the most where tiny-cuda-nn is in use: its workspaces are not seen here, and an edit
then peaks at no more than the reconstruction."""


@dataclass
class Kept:
    """Storages that a forward pass saved for its backward pass, each counted once."""

    storages: dict[int, int] = field(default_factory=dict)
    _alive: list[Tensor] = field(default_factory=list)  # or a freed storage's address could come again

    @property
    def bytes(self) -> int:
        """Their sizes together."""
        return sum(self.storages.values())

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor, and give it back."""
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage.nbytes()
        self._alive.append(tensor)
        return tensor


@contextmanager
def kept_for_backward(parameters: Iterable[Tensor]) -> Iterator[Kept]:
    """Count what is saved within this block, parameters aside: those are there anyway.

    What `torch.utils.checkpoint` will compute again is not saved, and not counted.
    """
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        yield kept
    for parameter in parameters:
        kept.storages.pop(parameter.untyped_storage()._cdata, None)


def free_memory(device: torch.device) -> float:
    """Bytes that could be allocated on a device; infinite where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not on every system
        return float("inf")


def rays_that_fit(per_ray: float, free: float = float("inf"), device: str = "cpu", most: int | None = None) -> int:
    """How many rays of so many bytes make a chunk, with so much memory free on a device of that type.

    Args:
        most: where it is fewer than the device can well have at once.
    """
    place = "cuda" if device == "cuda" else "cpu"
    fitting = int(min(CHUNK_BYTES[place], FREE_SHARE * free) / per_ray)
    return min(max(fitting, FEWEST_RAYS), most or MOST_RAYS[place])
