"""Groups of four cameras around an object: what priors that know of views are trained on."""

import math

import torch
from torch import Tensor

from pds_nerfstudio.toybox.render import LOOK_AT, ORBIT_RADIUS, orbit_cameras

VIEWS = 4


def quadruples(count: int, generator: torch.Generator) -> Tensor:
    """Cameras [count·4 3 4]: four azimuths 90 degrees apart, 12 to 50 degrees up, aim and distance jittered."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *size, generator=generator)

    azimuth = uniform(0, 2 * math.pi)[:, None] + math.pi / 2 * torch.arange(VIEWS)
    elevation = uniform(math.radians(12), math.radians(50))
    radius = ORBIT_RADIUS * uniform(0.9, 1.1)
    aim = torch.tensor(LOOK_AT) + uniform(-0.07, 0.07, 3)
    return orbit_cameras(azimuth.flatten(), *(value.repeat_interleave(VIEWS, 0) for value in (elevation, radius, aim)))
