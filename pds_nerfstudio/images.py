"""Pictures between the two conventions: nerfstudio's [H W 3] and a diffusion model's [B 3 H W], RGB in [0, 1]."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.errors import UserError


def to_channels_first(images: Float[Tensor, "*batch height width 3"]) -> Float[Tensor, "count 3 height width"]:
    """One picture [H W 3] or several [B H W 3] -> [B 3 H W]; values and graph are kept."""
    return images.reshape(-1, *images.shape[-3:]).movedim(-1, 1)


def to_channels_last(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch height width 3"]:
    """[B 3 H W] -> [B H W 3]; values and graph are kept."""
    return images.movedim(1, -1)


OUTLIERS = 0.02
"""Share of what a picture shows that may be nearer, and as much that may be farther, than what its depth is stretched
over."""


def depth_picture(
    depth: Float[Tensor, "batch 1 height width"], accumulation: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch 3 height width"]:
    """Depth as depth-conditioned ControlNets were trained to see it: inverse depth in [0, 1], the nearest white.

    Those of Stable Diffusion (lllyasviel/sd-controlnet-depth) saw MiDaS's relative inverse depth, stretched over each
    picture (Zhang et al. 2023; Ranftl et al. 2020). MiDaS has no floaters and a scene does: one near the camera would
    leave all else black. So it is stretched between percentiles, and clipped. What is transparent counts as
    infinitely far.

    Args:
        depth: along the optical axis, in any unit; ignored where nothing is.
        accumulation: opacity in [0, 1].
    """
    inverse = accumulation / depth.clamp(min=1e-6)
    inverse = inverse.where(accumulation > 0, 0)
    low, high = (
        torch.stack(ends)[:, None, None, None] for ends in zip(*map(_ends, inverse, accumulation), strict=True)
    )
    return ((inverse - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).expand(-1, 3, -1, -1)


def _ends(
    inverse: Float[Tensor, "1 height width"], accumulation: Float[Tensor, "1 height width"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The two values that a picture's inverse depth is stretched between: OUTLIERS of all of it lie below the first,
    and OUTLIERS of its opaque part above the second, however small an object is."""
    everything = inverse.flatten()
    opaque = accumulation.flatten() > 0.5
    opaque = opaque | ~opaque.any()
    # Not by a mask, whose number of elements a CPU would wait for.
    near = everything.where(opaque, -torch.inf).sort().values
    last = len(near) - 1 - (OUTLIERS * opaque.sum().double()).long()
    return everything.sort().values[int(OUTLIERS * len(everything))], near.gather(0, last[None])[0]


def working_size(height: int, width: int, short_side: int, multiple: int) -> tuple[int, int]:
    """The size at which a view is rendered for the prior.

    The shorter side becomes `short_side`, the other follows the aspect ratio, and each is rounded to the nearest
    multiple of the latent stride. Neither side is off by more than half a stride.

    Args:
        height, width: size of the view in pixels.
        short_side: wanted length of the shorter side in pixels.
        multiple: the prior's latent stride in pixels (8 for Stable Diffusion).

    Returns:
        (height, width) in pixels, both positive multiples of `multiple`.

    Raises:
        UserError: `short_side` is below the latent stride, or the view is empty.
    """
    if height < 1 or width < 1:
        raise UserError(f"The view is empty ({height}x{width} pixels): its height and width must be positive.")
    if short_side < multiple:
        raise UserError(
            f"A resolution of {short_side} pixels is below the prior's latent stride of {multiple}: "
            f"give at least {multiple}, better a size near the one the prior was trained at."
        )
    scale = short_side / min(height, width)
    return _round_to(height * scale, multiple), _round_to(width * scale, multiple)


def details(
    images: Float[Tensor, "batch channels height width"], block: int
) -> Float[Tensor, "batch channels height width"]:
    """What images lose when they are averaged over blocks of `block` pixels and interpolated back."""
    coarse = F.avg_pool2d(images, block)
    return images - F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)


def _round_to(length: float, multiple: int) -> int:
    return math.floor(length / multiple + 0.5) * multiple
