"""New Gaussians where a scene may change: of what little is in empty air, a flower cannot be made.

They are spread over the region, each as large as its distance to the nearest others, nearly transparent, and of the
mean colour of the region: an edit gives them what it needs and leaves the rest unseen.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.scenes.hull import Bounds, Hull, Region, box_of
from pds_nerfstudio.scenes.perturb import spacing
from pds_nerfstudio.scenes.splatfacto import SplatfactoScene

OPACITY = 0.05
CANDIDATES = 200_000
"""Points of which those in the region are taken."""


@torch.no_grad()
def populate(
    model: SplatfactoScene, count: int, region: Region, generator: torch.Generator, bounds: Bounds | None = None
) -> None:
    """Add up to `count` Gaussians in the region, before optimisers are built; the same ones on every rank and machine.

    A hull's draws are spread a little: those that come to lie outside, where they would be frozen, are left out.

    Args:
        bounds: of the region, where they are known (see `region.bounds_of`).
    """
    means = model.means.detach().cpu()
    inside = region.contains(model.means.detach()).cpu()
    members = inside if bool(inside.any()) else torch.ones_like(inside)
    drawn = spread_in(region, means[members], count, generator, bounds)
    drawn = drawn[region.contains(drawn)]
    if not (count := len(drawn)):
        return
    quats = torch.randn(count, 4, generator=generator)
    fresh = {
        "means": drawn,
        "scales": spacing(drawn, torch.cat([means, drawn])).log().repeat(1, 3),
        "quats": quats / quats.norm(dim=-1, keepdim=True),
        "opacities": torch.full((count, 1), OPACITY).logit(),
        "features_dc": model.gauss_params["features_dc"].detach().cpu()[members].mean(0).expand(count, -1),
    }
    for name, parameter in model.gauss_params.items():  # which optimisers may hold already
        added = fresh.get(name, torch.zeros(count, *parameter.shape[1:]))
        parameter.data, parameter.grad = torch.cat([parameter.detach(), added.to(parameter)]), None


def spread_in(
    region: Region,
    around: Float[Tensor, "_ 3"],
    count: int,
    generator: torch.Generator,
    bounds: Bounds | None = None,
) -> Float[Tensor, "count 3"]:
    """`count` points of a region: anywhere within its bounds, or without them in and near the box of `around`."""
    if isinstance(region, Hull):
        return region.draw(count, around, generator)
    if bounds is None:
        low, high = box_of(around)
        margin = (high - low).max()
        low, high = low - margin, high + margin
    else:
        low, high = (torch.tensor(corner) for corner in bounds)
    pool: Tensor = low + (high - low) * torch.rand(CANDIDATES, 3, generator=generator)
    pool = pool[region.contains(pool)]
    if not len(pool):  # a region so thin that none has met it
        pool = around
    return pool[torch.randint(len(pool), (count,), generator=generator)]
