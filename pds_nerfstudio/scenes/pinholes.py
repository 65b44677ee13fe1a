"""Perspective cameras of one size in the place of a dataset's, for what knows no others: nerfstudio's meshes.

Its TSDF takes every camera for a perspective one, a panorama's too, and stacks pictures, which must be of one size.
"""

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.views import Views

ABOUT_Y = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
ABOUT_X = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
FACES = torch.stack([*(torch.linalg.matrix_power(ABOUT_Y, i) for i in range(4)), ABOUT_X, ABOUT_X.T])
"""How the six sides of a cube are turned from the camera in its middle: four around, up and down."""


def pinholes(views: Views) -> Cameras:
    """Perspective cameras that see what these views see, all of the first one's size.

    A fisheye's sees its middle, at the same focal length; of a panorama there are six, the sides of a cube.

    Raises:
        UserError: a camera is of another kind.
    """
    height, width = views.size(0)
    kinds = {int(kind) for kind in views.cameras.camera_type}
    if kinds == {CameraType.EQUIRECTANGULAR.value}:
        return sides(views.cameras.camera_to_worlds, height // 2)
    if other := kinds - {CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value}:
        name = CameraType(min(other)).name.lower()
        raise UserError(f"A mesh is made by perspective cameras, and {views.names[0]} has a camera that is {name}.")
    cameras = [views.camera(i, height, width) for i in range(len(views))]
    fx, fy, cx, cy = (torch.cat([getattr(one, name) for one in cameras]) for name in ("fx", "fy", "cx", "cy"))
    return Cameras(views.cameras.camera_to_worlds, fx, fy, cx, cy, width, height)


def sides(poses: Float[Tensor, "panoramas 3 4"], size: int) -> Cameras:
    """The six sides of a cube around each pose, square pictures of `size` pixels."""
    rotations = poses[:, None, :, :3] @ FACES.to(poses)
    places = poses[:, None, :, 3:].expand(-1, len(FACES), -1, -1)
    half = size / 2
    return Cameras(torch.cat([rotations, places], dim=-1).flatten(0, 1), half, half, half, half, size, size)
