"""How a studio scene is photographed; also flags of `pds studio`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from pds_nerfstudio.ranges import Pixels, Seed, check_ranges

Count = Annotated[int, Ge(1), Le(100_000)]


@dataclass(frozen=True)
class Photography:
    """How a scene is photographed. Scenes that share it share their cameras.

    Raises UserError for a number outside its range.
    """

    size: Pixels = 384
    """Height and width of rendered pictures in pixels."""
    train_views: Count = 50
    """Views to reconstruct from."""
    test_views: Count = 6
    """Views to measure on, which are held out."""
    num_points: Count = 3000
    """Points of the sparse cloud."""
    seed: Seed = 0
    """Seed of the cameras' places."""
    samples: Count = 24
    """Paths traced for each pixel."""
    denoise: bool = True
    """Remove what noise the paths leave. Without it, 1000 samples are needed."""

    def __post_init__(self) -> None:
        check_ranges(self)
