"""Cameras as a diffusion prior is told them: sixteen numbers a view (MVDream, Shi et al. 2023, section 3.1).

    M = [ R  t/|t| ]        R, t: camera to world, OpenGL axes, z up, the subject's centre at the origin
        [ u  v  s  1 ]      u, v: where the picture shows that centre; s: how large it shows it

flattened row by row. MVDream's own last row is (0, 0, 0, 1), which is this one for a camera that looks straight at its
subject from the distance at which it was trained. Real cameras do neither, and the normalised translation cannot say
so: u and v are what the aim misses, s is the distance.

The trap: sixteen zeros stand for "no camera". No camera has that vector, because its last number is 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CAMERA_NUMBERS = 16

CameraMatrices = Float[Tensor, "views 4 4"]
"""M of every view."""


@dataclass(frozen=True, eq=False)
class Viewpoints:
    """Where the samples of a batch are seen from.

    Raises ValueError for matrices of another shape, and for views that do not divide into groups.
    """

    matrices: CameraMatrices
    """M of every sample, in the batch's order."""
    together: int = 1
    """Consecutive samples that are views of one scene, to be predicted jointly; 1 for each view by itself."""

    def __post_init__(self) -> None:
        shape = list(self.matrices.shape)
        if len(shape) != 3 or shape[1:] != [4, 4]:
            raise ValueError(f"The cameras have shape {shape}: give one 4x4 matrix per sample.")
        if self.together < 1 or shape[0] % self.together:
            raise ValueError(f"{shape[0]} views do not make groups of {self.together}: give a multiple of it.")

    def __len__(self) -> int:
        return len(self.matrices)


def camera_matrices(
    camera_to_world: Float[Tensor, "views 3 4"],
    centre: Float[Tensor, "3"],
    extent: float,
    tan_half: float | Float[Tensor, " views"],
) -> CameraMatrices:
    """M of cameras around a subject.

    Args:
        camera_to_world: OpenGL cameras (x right, y up, looking along −z) in a world whose z axis points up.
        centre: the subject's, in that world.
        extent: half of what a picture should show at the subject's distance, in the world's unit; s is 0 there.
        tan_half: tangent of half the field of view, of the picture's shorter side.

    Returns:
        matrices whose last row holds u and v in halves of the picture (right and up are positive, 0 is its middle) and
        s = ln(distance · tan_half / extent).
    """
    rotation, position = camera_to_world[:, :, :3], camera_to_world[:, :, 3] - centre
    distance = position.norm(dim=-1)
    right, up, depth = (-rotation.mT @ position[..., None])[..., 0].unbind(-1)
    half = -depth * tan_half
    last = torch.stack([right / half, up / half, (distance * tan_half / extent).log(), torch.ones_like(distance)], -1)
    matrices = torch.cat([rotation, (position / distance[:, None])[..., None]], dim=-1)
    return torch.cat([matrices, last[:, None]], dim=1)


def without_framing(cameras: CameraMatrices) -> CameraMatrices:
    """The same cameras with MVDream's own last row, for priors that were trained on centred subjects alone."""
    return torch.cat([cameras[:, :3], torch.eye(4).to(cameras)[None, 3:].expand(len(cameras), -1, -1)], dim=1)
