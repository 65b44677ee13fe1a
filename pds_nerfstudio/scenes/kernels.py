"""Whether gsplat can draw on a device, asked without importing it."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from pds_nerfstudio.errors import UserError


def splats_obstacle(device: str) -> str | None:
    """Why gsplat cannot draw on this device, and what to do; None where it can, or a CPU draws without it.

    gsplat from PyPI compiles its kernels on first use, with the nvcc on the path; without one its first rendering ends
    in an AttributeError.
    """
    if not device.startswith("cuda") or gsplat_kernels() is not None or shutil.which("nvcc") is not None:
        return None
    return (
        "gsplat has no compiled kernels here and there is no nvcc on the path to compile them: install the CUDA "
        "toolkit or a prebuilt gsplat wheel (https://docs.gsplat.studio), or use --machine.device-type cpu."
    )


def require_splats(device: str) -> None:
    """Raise `UserError` where gsplat cannot draw on this device."""
    if (obstacle := splats_obstacle(device)) is not None:
        raise UserError(obstacle)


def gsplat_kernels() -> Path | None:
    """The compiled kernels that came with gsplat, None where there are none; gsplat is not imported."""
    spec = find_spec("gsplat")
    if spec is None or spec.origin is None:
        return None
    return next((p for p in Path(spec.origin).parent.glob("csrc*") if p.suffix in (".so", ".pyd")), None)
