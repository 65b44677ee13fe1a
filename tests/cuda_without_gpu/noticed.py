"""What a GPU would have noticed, where tensors lie by their names: `devices.py` says how torch is asked."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

HERE = (__name__, f"{__package__}.devices")
"""What pretends: no place of an event."""
HOST = "cpu"
ANYWHERE = "anywhere"
"""Where autograd's own zeros are: it makes them on the device that it needs."""
PURGED_EVERY = 20_000
LIKE_COPY = {"copy_", "_to_copy", "clone", "detach", "lift_fresh", "alias"}
"""Operations that may join devices."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
WAIT = {
    *("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),
    *("bincount", "is_nonzero", "allclose"),
}
"""Operations whose result, or its shape, the host has to know."""
NO_SCALARS = {"cat", "stack", "mm", "addmm", "bmm", "baddbmm", "index_select", "gather", "scatter", "embedding"}
"""Operations that take no scalar tensor of the CPU beside others of a GPU."""


class Event(NamedTuple):
    """Something that a GPU would have noticed."""

    kind: Literal["mismatch", "wait", "fetch"]
    """Two devices in one operation; the host waits for a GPU; a copy from the host to a GPU."""
    what: str
    place: str
    """The function that did it and, where that is not this package's, the nearest of this package that called it."""
    step: int | None
    """The edit step, where one was running."""


class Watch:
    """Names of devices for storages, and `events`: what a GPU would have noticed of what is done with them."""

    def __init__(self):
        self.events: list[Event] = []
        self.step: int | None = None
        self.kernel: str | None = None
        """The device whose kernel is running: whatever that makes lies there, and nobody else notices."""
        self.watching = True
        self.lenient = False
        """Whether devices may meet: within a function of torch's own in Python."""
        self.asking = self.differentiating = False
        """Whether Python has asked for what is being done; whether autograd runs backward."""
        self._tags: dict[int, tuple[StorageWeakRef, str]] = {}
        self._since_purge = 0

    def of_kind(self, kind: str, step: int | None = None) -> Counter[tuple[str, str]]:
        """How often each thing of a kind was noticed, of one step or in all: (what, place) -> number."""
        return Counter((e.what, e.place) for e in self.events if e.kind == kind and step in (None, e.step))

    def note(self, kind: Literal["mismatch", "wait", "fetch"], what: str) -> None:
        """Write down that it happens here."""
        if self.watching and self.kernel is None and not (self.lenient and kind == "mismatch"):
            self.events.append(Event(kind, what, _place(), self.step))

    def device_of(self, tensor: Tensor) -> str:
        """Where a tensor would lie: "cpu", "cuda:0", "meta"."""
        storage = _storage_of(tensor)
        if storage is None:
            return tensor.device.type
        known = self._tags.get(storage._cdata)
        return HOST if known is None else known[1]

    def put(self, tensor: Any, device: str) -> Any:
        """Say that a tensor, or whatever else it is, lies there."""
        if isinstance(tensor, Tensor) and not tensor.is_meta:
            storage = _storage_of(tensor)
            if storage is None:
                return tensor
            if device == HOST:
                self._tags.pop(storage._cdata, None)
            else:
                self._tags[storage._cdata] = StorageWeakRef(storage), device
                self._since_purge += 1
                if self._since_purge > PURGED_EVERY:
                    self._tags = {key: known for key, known in self._tags.items() if not known[0].expired()}
                    self._since_purge = 0
        return tensor

    def moved(self, tensor: Tensor, device: str, copy: bool = False) -> Tensor:
        """A copy on another device, with the graph back; the same tensor where it is there already."""
        source = self.device_of(tensor)
        if source == device and not copy:
            return tensor
        self._note_copy(source, device, tensor)
        with self.unwatched():
            return _Move.apply(tensor, self, source, device)  # pyright: ignore[reportReturnType]

    def _note_copy(self, source: str, target: str, tensor: Tensor) -> None:
        if source != HOST and target == HOST:
            self.note("wait", "copied to the host")
        elif source == HOST and target != HOST:
            self.note("fetch", "a number" if tensor.numel() == 1 else "a tensor")

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Within this block torch is what it is, and nothing is written down; results still get their names."""
        watching, self.watching = self.watching, False
        try:
            yield
        finally:
            self.watching = watching

    @contextmanager
    def running_kernel(self, device: str) -> Iterator[None]:
        """Within this block what torch computes stands for one kernel of that device."""
        outside, self.kernel = self.kernel, device
        try:
            with self.unwatched():
                yield
        finally:
            self.kernel = outside

    def look_at(self, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        """Do one of torch's operations, and write down what a GPU would have noticed."""
        leaves = leaves_of(args, kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        places = [self.device_of(tensor) for tensor in tensors]
        devices = sorted({place for place in places if place.startswith("cuda")})
        result = function(*args, **kwargs)
        if not devices and self.kernel is None:
            if self.differentiating and not self.asking and all(place == ANYWHERE for place in places):
                self.put(result, ANYWHERE)
            return result
        if devices and self.watching:
            self._notice(name, args, tensors, places, devices)
            if any(isinstance(leaf, torch.Generator) for leaf in leaves):
                self.note("mismatch", f"{name} on {devices[0]} with a generator of the CPU")
        device = self.kernel or devices[0]
        if name != "_local_scalar_dense":
            for made in leaves_of(result):
                # What is changed in place stays where it is.
                if isinstance(made, Tensor) and self.device_of(made) == HOST and all(made is not t for t in tensors):
                    self.put(made, device)
        return result

    def _notice(self, name: str, args: Any, tensors: list[Tensor], places: list[str], devices: list[str]) -> None:
        if name == "copy_":
            if places[0] != places[1]:
                self._note_copy(places[1], places[0], tensors[1])
            return
        if name in LIKE_COPY:
            return
        if name in WAIT:
            self.note("wait", name)
        indices = [leaf for leaf in leaves_of(args[1]) if isinstance(leaf, Tensor)] if name in INDEXING else []
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            self.note("wait", "index by a mask")
        if len(devices) > 1:
            self.note("mismatch", f"{name} on {' and '.join(devices)}")
        elsewhere = [
            tensor
            for tensor, place in zip(tensors, places, strict=True)
            if place == HOST and (tensor.dim() or name in NO_SCALARS)
        ]
        if elsewhere and places[0] != HOST and all(any(t is index for index in indices) for t in elsewhere):
            self.note("fetch", "an index")
        elif elsewhere and not (name.startswith(("_foreach", "_fused")) and not any(t.dim() for t in elsewhere)):
            self.note("mismatch", f"{name} on {devices[0]} and the CPU, {[list(t.shape) for t in elsewhere]}")
        elif name.endswith("_") and places[0] == HOST and not tensors[0].dim() and not name.startswith("_"):
            self.note("mismatch", f"{name} writes a result of {devices[0]} into a number on the CPU")


class Done(TorchDispatchMode):
    """Has a watch look at each of torch's operations."""

    def __init__(self, cuda: Watch):
        super().__init__()
        self.cuda = cuda

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.cuda.look_at(func._overloadpacket.__name__, func, args, kwargs or {})


def leaves_of(*things: Any) -> list[Any]:
    """What lists, tuples and dictionaries hold; torch's own walk asks for other containers too, and is slow."""
    found = []
    for thing in things:
        if isinstance(thing, list | tuple):
            found += leaves_of(*thing)
        elif isinstance(thing, dict):
            found += leaves_of(*thing.values())
        else:
            found.append(thing)
    return found


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, cuda, source, target):
        ctx.cuda, ctx.source = cuda, source
        return cuda.put(tensor.clone(), target)

    @staticmethod
    def backward(ctx, *grads):
        with ctx.cuda.unwatched():
            return ctx.cuda.put(grads[0].clone(), ctx.source), None, None, None


def _storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """What holds its values; None for a tensor that has no storage, such as a sparse one."""
    try:
        return tensor.untyped_storage()
    except RuntimeError:
        return None


def _place() -> str:
    frame, found = sys._getframe(2), []
    while frame is not None and not (found and found[-1].startswith("pds_nerfstudio.")):
        module = frame.f_globals.get("__name__", "?")
        passed_by = module in HERE or module.split(".")[0] in ("torch", "jaxtyping", "beartype", "contextlib")
        if not passed_by and (not found or module.startswith("pds_nerfstudio.")):
            found.append(f"{module}.{frame.f_code.co_name}")
        frame = frame.f_back
    return " for ".join(found) or "?"
