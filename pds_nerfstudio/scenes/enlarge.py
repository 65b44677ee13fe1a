"""Pictures of splats that are larger than the photographs they were made from.

    Σ₂ᴅ ← Σ₂ᴅ + 0.3 r² 𝟙        r: how many times larger the picture is than the photographs

A rasteriser blurs every Gaussian by about half a pixel, and optimisation counts on it: Gaussians become as thin as that
allows. In a picture r times as large the blur would be r times as narrow, and edges fall apart into needles (the
dilation of Yu et al. 2024, "Mip-Splatting", section 4). Here it is enlarged with the picture, which then shows what the
photographs' size shows, without their pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PIXEL = 0.3
"""What is added to a projected Gaussian's variances, in pixels²: gsplat's own."""
_spread = ContextVar("_spread", default=PIXEL)


@contextmanager
def enlarged(times: float) -> Iterator[None]:
    """Within this block splats are drawn for pictures so many times larger than their photographs."""
    token = _spread.set(PIXEL * max(1.0, times) ** 2)
    try:
        yield
    finally:
        _spread.reset(token)


def spread() -> float:
    """The `eps2d` of `rasterization` as it is to be now."""
    return _spread.get()
