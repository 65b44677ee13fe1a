"""Rendering a whole image with gradients: how an edit reaches the Gaussians or the hash grid.

    image = g(view; θ)        RGB in [0, 1], with the graph of θ

What is rendered is what the viewer shows, not what the reconstruction was trained on: the average appearance instead of
one photograph's, the viewer's background instead of a random one, no near plane, full resolution, proposal weights
without annealing (nerfacto's annealing and splatfacto's coarse-to-fine count training steps and would begin again with
the edit). Two things are taken from training: the pose correction of a training view, so that rendering and photograph
coincide, and the jitter of a ray's samples, so that nothing can hide between them.

Each family renders in its own file, `nerf.py` and `splats.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

RAYS_PER_CHUNK = 2048
"""Half of nerfacto's own training batch; an edit chooses by the free memory (see `scenes.memory`)."""


@dataclass(frozen=True)
class Chunks:
    """How a NeRF's rays are rendered in pieces; splats are rasterised in one pass and read none of it.

    Raises ValueError for a share outside (0, 1].
    """

    rays: int = RAYS_PER_CHUNK
    """The largest number of rays to render at once."""
    recompute: bool | None = None
    """Whether activations are recomputed in backward. By default, wherever gradients are wanted and the image has more
    rays than one chunk. The result is the same."""
    backward_share: float = 1.0
    """The share of the chunks that carries a graph, at least one of them, drawn anew by torch's global generator in
    each rendering. Their gradients are scaled by its inverse: on average over the draws the gradient is that of the
    whole image."""

    def __post_init__(self) -> None:
        if not 0 < self.backward_share <= 1:
            raise ValueError(f"backward_share is {self.backward_share}: it must lie in (0, 1].")


@dataclass(frozen=True)
class Rendering:
    """A rendered view. Image and opacity carry the graph of the scene's parameters, unless rendered under `no_grad`."""

    image: Float[Tensor, "1 3 height width"]
    """RGB in [0, 1]."""
    depth: Float[Tensor, "1 1 height width"]
    """Depth of the surface along the optical axis, in scene units: of splats the expected one, of NeRFs the median,
    which has no gradient. The fog behind a NeRF's surfaces pulls the expected one far behind them."""
    accumulation: Float[Tensor, "1 1 height width"]
    """Opacity in [0, 1]."""
    regulariser: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """nerfacto's interlevel and distortion losses on these rays, weighted as in its config; empty unless asked for."""

    def enlarged(self, height: int, width: int) -> "Rendering":
        """The same picture in more pixels, between which it is smooth."""
        image, depth, accumulation = (
            F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
            for values in (self.image, self.depth, self.accumulation)
        )
        return Rendering(image, depth, accumulation, self.regulariser)


def require_one(camera: Cameras) -> None:
    """Raise ValueError for more than one camera, or a camera without a batch dimension."""
    if tuple(camera.shape) != (1,):
        raise ValueError(f"render takes one camera, batch shape (1,), not {tuple(camera.shape)}")


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Within this block the model and all its parts are in evaluation mode."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def as_image(values: Float[Tensor, "height width channels"]) -> Float[Tensor, "1 channels height width"]:
    """In float32, channels first."""
    return values.float().movedim(-1, 0)[None]
