"""Settings of an edit of a drawing, apart from what needs a prior to be imported."""

from dataclasses import dataclass

HIGHEST_RATE = 100.0


@dataclass(frozen=True)
class SvgSettings:
    """How a drawing is edited. Raises ValueError for what cannot work."""

    steps: int = 1000
    """Steps of Adam (Koo et al. 2024, section 6.2)."""
    points_rate: float = 0.8
    """Adam's learning rate of control points, in pixels of a canvas whose shorter side is 512 (the paper's)."""
    colours_rate: float = 0.01
    """Of colours and opacities in [0, 1] (the paper's)."""
    widths_rate: float = 0.05
    """Of stroke widths, in pixels of that canvas; the paper does not say whether it edits them."""
    seed: int = 0
    """Of timesteps, noise and adapters."""
    adapter_rank: int = 16
    """Of the adapters that VSD and Piva teach."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("An edit of no steps changes nothing: give at least 1 step.")
        for name in ("points_rate", "colours_rate", "widths_rate"):
            if not 0 <= getattr(self, name) <= HIGHEST_RATE:
                raise ValueError(f"{name} is {getattr(self, name)}: give a learning rate of 0 to {HIGHEST_RATE}.")
