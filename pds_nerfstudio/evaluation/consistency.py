"""Do an edit's views agree with each other? One rendering warped into another by the exact depth of the truth."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pds_nerfstudio.evaluation.metrics import Images, psnr
from pds_nerfstudio.toybox.render import camera_rays, focal_length

Maps = Float[Tensor, "views height width"]
TOLERANCE, EDGE = 0.05, 0.3
"""Metres: how far a point may lie from what the other view sees there and still be the same surface; and the range of
depths among neighbouring pixels that makes an edge."""


def warp(
    images: Images, depth: Maps, cameras: Float[Tensor, "views 3 4"], other: Int[Tensor, " views"]
) -> tuple[Images, Maps]:
    """What view i should look like by view `other[i]`, and 1 where that view sees the same surface, else 0.

    Args:
        depth: metres along the optical axis, 0 on the background.
        cameras: camera to world, OpenGL axes, of toybox's field of view.
        other: indices of views.
    """
    height, width = images.shape[-2:]
    origins, directions = camera_rays(cameras, height, width)
    points = origins + depth.flatten(1)[..., None] * directions
    local = (points - cameras[other][:, None, :, 3]) @ cameras[other][:, :, :3]
    ahead = -local[..., 2]
    place = (
        focal_length(width) * torch.stack([local[..., 0], -local[..., 1]], dim=-1) / ahead.clamp(min=1e-6)[..., None]
    )
    grid = (2 * place / torch.tensor([width, height])).reshape(-1, height, width, 2)
    warped = F.grid_sample(images[other], grid, align_corners=False)
    there = depth[other][:, None]
    seen = F.grid_sample(there, grid, align_corners=False)[:, 0]
    # At an edge, or beside the background, the pixels around mix two surfaces.
    nearest, farthest = (-F.max_pool2d(-there, 3, 1, 1), F.max_pool2d(there, 3, 1, 1))
    smooth = (
        F.grid_sample(((nearest > 0) & (farthest - nearest < EDGE)).to(there), grid, align_corners=False)[:, 0] > 0.99
    )
    ahead = ahead.reshape(seen.shape)
    visible = (depth > 0) & smooth & ((ahead - seen).abs() < TOLERANCE)
    return warped, visible.to(images)


def view_consistency(
    images: Images, depth: Maps, cameras: Float[Tensor, "views 3 4"], mask: Maps
) -> Float[Tensor, " views"]:
    """PSNR in dB of each view against the nearest other one warped into it, within `mask`, where both see the surface.

    NaN for a view that shares no such pixel with its neighbour.
    """
    axes = F.normalize(cameras[:, :, 2], dim=-1)
    nearest = (axes @ axes.T - 2 * torch.eye(len(axes))).argmax(dim=1)
    warped, visible = warp(images, depth, cameras, nearest)
    return psnr(images, warped, visible * mask)
