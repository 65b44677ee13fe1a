"""Tensors that are called CUDA, on a machine without a GPU.

Values stay on the CPU and are computed there; every storage carries the name of the device on which it would lie. What
a GPU would refuse, wait for or fetch is written down with its place, and the computation goes on: one run finds all.

Two of torch's modes do it. `_Asked` sees what Python asks of torch, which names devices (`.to`, `device=`, `.device`);
`Done` sees each operation that comes of it, in backward too, and hands names on to the results. Known gaps: functions
of torch's own in Python (`F.interpolate`, `einsum`) make their helpers on the CPU, so that within them two devices may
meet; float16 is computed by the CPU's kernels; nothing is known of memory and time.
"""

import types
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .noticed import ANYWHERE, HOST, Done, Watch, leaves_of

ON_THIS_MACHINE = torch.device
NO_GPU: dict[str, Any] = {
    "is_available": lambda: True,
    "is_bf16_supported": lambda *_, **__: True,
    "current_device": lambda: 0,
    "set_device": lambda *_: None,
    "device": nullcontext,
    "mem_get_info": lambda *_: (20 << 30, 24 << 30),
    **dict.fromkeys(
        ("memory_reserved", "memory_allocated", "max_memory_allocated", "max_memory_reserved"), lambda *_: 0
    ),
    **dict.fromkeys(("reset_peak_memory_stats", "empty_cache", "manual_seed", "manual_seed_all"), lambda *_: None),
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": lambda *_: None,
    "get_device_name": lambda *_: "a pretended GPU",
    "get_device_capability": lambda *_: (8, 6),
    "get_device_properties": lambda *_: types.SimpleNamespace(total_memory=24 << 30, major=8, minor=6, name="none"),
}
"""What torch.cuda answers."""


class PretendedCuda(Watch):
    """Within `with PretendedCuda(2) as cuda:` there are two GPUs; `cuda.events` is what they would have noticed.

    Threads other than the one that entered it see the machine as it is.
    """

    def __init__(self, devices: int = 1):
        super().__init__()
        self.devices = devices
        self._undo = ExitStack()

    def __enter__(self) -> "PretendedCuda":
        import torch.cuda.amp.common as amp
        import torch.optim.optimizer as optimizer

        def set_to(holder: Any, name: str, value: Any) -> None:
            self._undo.enter_context(patch.object(holder, name, value))

        for name, value in NO_GPU.items():
            set_to(torch.cuda, name, value)
        set_to(torch.cuda, "device_count", lambda: self.devices)
        set_to(torch.cuda, "synchronize", lambda *_: self.note("wait", "torch.cuda.synchronize"))
        set_to(torch.accelerator, "is_available", lambda: False)
        set_to(amp, "amp_definitely_not_available", lambda: False)
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(optimizer.Optimizer, name):
                set_to(optimizer.Optimizer, name, lambda _: None)
        # It compares devices by what the C++ side says, which is the CPU.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        self._undo.enter_context(patch.dict(checks, dict.fromkeys(checks, lambda _: None)))
        autocast = _autocast(torch.amp.autocast_mode.autocast)
        for holder in (torch, torch.amp, torch.amp.autocast_mode):
            set_to(holder, "autocast", autocast)
        run_backward = torch.autograd._engine_run_backward  # pyright: ignore[reportAttributeAccessIssue]

        def backward(*args, **kwargs):
            # Torch has left the mode for its own functions; hooks and recomputed forward passes ask for devices too.
            outside = self.lenient, self.asking, self.differentiating
            self.lenient, self.asking, self.differentiating = False, False, True
            try:
                with asked:
                    return run_backward(*args, **kwargs)
            finally:
                self.lenient, self.asking, self.differentiating = outside

        asked = _Asked(self)
        set_to(torch.autograd, "_engine_run_backward", backward)
        self._undo.enter_context(asked)
        self._undo.enter_context(Done(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


class _Asked(TorchFunctionMode):
    """Devices as Python sees them."""

    def __init__(self, cuda: Watch):
        super().__init__()
        self.cuda = cuda
        device, is_cuda, is_cpu = (getattr(Tensor, name).__get__ for name in ("device", "is_cuda", "is_cpu"))
        self.answers = {
            device: self._device,
            is_cuda: lambda tensor: cuda.device_of(tensor).startswith("cuda"),
            is_cpu: lambda tensor: cuda.device_of(tensor) == HOST and tensor.device.type == HOST,
            Tensor.get_device: lambda tensor: (
                self._device(tensor).index if self._device(tensor).index is not None else -1
            ),
            Tensor.to: self._to,
            Tensor.cuda: lambda tensor, device=None, **_: cuda.moved(tensor, _named(0 if device is None else device)),
            Tensor.cpu: lambda tensor, **_: cuda.moved(tensor, HOST),
            Tensor.type_as: lambda tensor, other: self._to(tensor, other),
            Tensor.pin_memory: lambda tensor, *_: tensor,
            Tensor.__deepcopy__: lambda tensor, memo: cuda.put(
                Tensor.__deepcopy__(tensor, memo), cuda.device_of(tensor)
            ),
            Tensor.new_tensor: self._new_tensor,
            Tensor.tolist: lambda tensor: cuda.moved(tensor.detach(), HOST).tolist(),
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.cuda.watching:
            return func(*args, **kwargs)
        outside, self.cuda.asking = self.cuda.asking, True
        try:
            return self._answer(func, args, kwargs)
        finally:
            self.cuda.asking = outside

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func.__name__ == "_parse_to":  # by which modules read what `to` was given
            if args and isinstance(args[0], Tensor):
                args = self._device(args[0]), args[0].dtype, *args[1:]
            return func(*args, **kwargs)
        if (answer := self.answers.get(func)) is not None:
            return answer(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and self.cuda.device_of(args[0]) != HOST:
            if kwargs.get("force"):
                self.cuda.note("wait", "copied to the host")
            else:
                self.cuda.note("mismatch", "numpy of a tensor that is not on the CPU")
        asked = None if kwargs.get("device") is None else _named(kwargs["device"])
        if asked is None or not asked.startswith("cuda"):
            return self._run(func, args, kwargs)
        if isinstance(kwargs.get("generator"), torch.Generator):
            self.cuda.note("mismatch", f"{func.__name__} on {asked} with a generator of the CPU")
        made = self._run(func, args, kwargs | {"device": HOST})
        if func in (torch.as_tensor, torch.asarray) and isinstance(args[0], Tensor):
            return self.cuda.moved(made, asked)
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            self.cuda.note("fetch", "a number" if made.numel() == 1 else "a tensor")
        return self.cuda.put(made, asked)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        # A function of torch's in Python runs outside of this mode, and makes what it needs on the CPU.
        if isinstance(func, types.FunctionType) and any(
            isinstance(leaf, Tensor) and self.cuda.device_of(leaf) != HOST for leaf in leaves_of(args, kwargs)
        ):
            outside, self.cuda.lenient = self.cuda.lenient, True
            try:
                return func(*args, **kwargs)
            finally:
                self.cuda.lenient = outside
        return func(*args, **kwargs)

    def _device(self, tensor: Tensor) -> torch.device:
        device = self.cuda.device_of(tensor)
        return tensor.device if device in (HOST, ANYWHERE) else ON_THIS_MACHINE(device)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rest, device = list(args), kwargs.pop("device", None)
        other = kwargs.pop("other", rest.pop(0) if rest and isinstance(rest[0], Tensor) else None)
        if other is not None:
            device = self._device(other)
            rest.insert(0, other.dtype)
        elif rest and (rest[0] is None or isinstance(rest[0], str | torch.device) or type(rest[0]) is int):
            device = rest.pop(0)
        dtype = kwargs.pop("dtype", next((value for value in rest if isinstance(value, torch.dtype)), None))
        layout = kwargs.get("memory_format")
        if tensor.is_meta or (device is not None and _named(device) == "meta"):
            return tensor.to(device, dtype or tensor.dtype)
        converted = tensor
        if dtype is not None or layout is not None:
            converted = tensor.to(dtype or tensor.dtype, **({"memory_format": layout} if layout else {}))
            # With a layout torch makes no copy where it fits already: the name then is that of the source.
            if converted is not tensor:
                self.cuda.put(converted, self.cuda.device_of(tensor))
        copy = kwargs.get("copy", False) and converted is tensor
        place = self.cuda.device_of(tensor) if device is None else _named(device)
        return self.cuda.moved(converted, place, copy)

    def _new_tensor(self, tensor: Tensor, data: Any, **settings: Any) -> Tensor:
        device = _named(settings.pop("device", None) or self._device(tensor))
        if device != HOST:
            self.cuda.note("fetch", "a number")
        return self.cuda.put(torch.tensor(data, **({"dtype": tensor.dtype} | settings)), device)


def _named(device: Any) -> str:
    if isinstance(device, int):
        return f"cuda:{device}"
    device = ON_THIS_MACHINE(device)
    return f"cuda:{device.index or 0}" if device.type == "cuda" else device.type


def _autocast(base: Any) -> Any:
    """CUDA's autocast by the CPU's, in float16."""

    class autocast(base):
        def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
            if device_type == "cuda":
                device_type, dtype = HOST, dtype or torch.float16
            super().__init__(device_type, dtype, enabled, cache_enabled)

    return autocast
