"""Settings of an edit of a drawing, apart from what needs a prior to be imported."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from pds_nerfstudio.ranges import Seed, Steps, check_ranges

DrawingRate = Annotated[float, Ge(0), Le(100)]
"""Of Adam; 0 keeps what it is for as it is."""


@dataclass(frozen=True)
class SvgSettings:
    """How a drawing is edited. Raises ValueError for what cannot work."""

    steps: Steps = 1000
    """Steps of Adam (Koo et al. 2024, section 6.2)."""
    points_rate: DrawingRate = 0.8
    """Adam's learning rate of control points, in pixels of a canvas whose shorter side is 512 (the paper's)."""
    colours_rate: DrawingRate = 0.01
    """Of colours and opacities in [0, 1] (the paper's)."""
    widths_rate: DrawingRate = 0.05
    """Of stroke widths, in pixels of that canvas; the paper does not say whether it edits them."""
    seed: Seed = 0
    """Of timesteps, noise and adapters."""
    adapter_rank: Annotated[int, Ge(1), Le(1024)] = 16
    """Of the adapters that VSD and Piva teach."""

    def __post_init__(self) -> None:
        check_ranges(self, "", ValueError)
