"""Camera paths through a run's training views, for renderings before and after an edit.

No camera of these paths knows which view it is: poses are taken as the dataset gives them, without the pose corrections
of the reconstruction, and lenses are without distortion.
"""

import math
from typing import Literal

import torch
from nerfstudio.cameras.camera_utils import focus_of_attention, get_interpolated_poses_many, viewmatrix
from nerfstudio.cameras.cameras import Cameras

from pds_nerfstudio.scenes.views import Views

CameraPath = Literal["training", "interpolated", "orbit"]
KEY_VIEWS = 12
"""At most so many training views are joined by an interpolated path."""


def camera_path(views: Views, kind: CameraPath, frames: int, height: int, width: int) -> Cameras:
    """`frames` cameras for pictures of `height` x `width` pixels, with the intrinsics of the first view.

    training: the training views in their order, evenly chosen (all of them, where there are fewer than `frames`).
    interpolated: a smooth way through some of them, from each to the nearest that is left.
    orbit: one turn around what the views look at, at their median distance and height. Around a scene that was
    photographed from one side, most of it shows what nobody has seen.
    """
    match kind:
        case "training":
            poses = views.cameras.camera_to_worlds[evenly(len(views), frames)]
        case "interpolated":
            poses = _interpolated(views, frames)
        case "orbit":
            poses = _orbit(views.cameras.camera_to_worlds, frames)
    first = views.camera(0, height, width)
    size = torch.full((len(poses), 1), 1)
    fx, fy, cx, cy = (float(value) for value in (first.fx, first.fy, first.cx, first.cy))
    return Cameras(poses, fx, fy, cx, cy, size * width, size * height)


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` indices, or all of them, evenly chosen and rising."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


def _interpolated(views: Views, frames: int) -> torch.Tensor:
    keys = evenly(len(views), KEY_VIEWS)
    if len(keys) < 2:
        return views.cameras.camera_to_worlds[keys].expand(frames, -1, -1)
    cameras = views.cameras[torch.tensor(keys)]
    steps = math.ceil(frames / (len(keys) - 1)) + 1
    poses, _ = get_interpolated_poses_many(
        cameras.camera_to_worlds,
        cameras.get_intrinsics_matrices(),
        steps_per_transition=steps,
        order_poses=True,
    )
    return poses[[round(i * (len(poses) - 1) / max(frames - 1, 1)) for i in range(frames)]].float()


def _orbit(poses: torch.Tensor, frames: int) -> torch.Tensor:
    poses = poses.detach().cpu()
    positions = poses[:, :3, 3]
    target = focus_of_attention(poses, positions.mean(0))
    offset = positions - target
    radius, height = offset[:, :2].norm(dim=-1).median(), offset[:, 2].median()
    up = torch.tensor([0.0, 0.0, 1.0])
    start = math.atan2(*offset[0, :2].flip(0).tolist())
    turn = []
    for i in range(frames):
        angle = start + 2 * math.pi * i / frames
        away = torch.stack([radius * math.cos(angle), radius * math.sin(angle), height])
        turn.append(viewmatrix(away, up, target + away)[:3])
    return torch.stack(turn)
