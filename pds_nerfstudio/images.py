"""Pictures between the two conventions: nerfstudio's [H W 3] and a diffusion model's [B 3 H W], RGB in [0, 1]."""

import math

from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.errors import UserError


def to_channels_first(images: Float[Tensor, "*batch height width 3"]) -> Float[Tensor, "count 3 height width"]:
    """One picture [H W 3] or several [B H W 3] -> [B 3 H W]; values and graph are kept."""
    return images.reshape(-1, *images.shape[-3:]).movedim(-1, 1)


def to_channels_last(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch height width 3"]:
    """[B 3 H W] -> [B H W 3]; values and graph are kept."""
    return images.movedim(1, -1)


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


def _round_to(length: float, multiple: int) -> int:
    return math.floor(length / multiple + 0.5) * multiple
