"""Masks of views carried to Gaussians: a Gaussian belongs to what most of its weight in the pictures shows.

    in_i = sum_v sum_p w_ip m_v(p)        all_i = sum_v sum_p w_ip        w_ip = alpha_i T_{i-1}: see `rasterize`

Both sums are gradients: with a value c_i per Gaussian, a rendering is C(p) = sum_i c_i w_ip, and so
d/dc_i sum_p m(p) C(p) = in_i. One backward pass of the compositor gives them for all Gaussians at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial import KDTree
from torch import Tensor

from pds_nerfstudio.scenes.rasterize import rasterization
from pds_nerfstudio.scenes.splatfacto import SplatfactoScene, viewmat_of

SEEN = 0.05
"""Pixels that a Gaussian has to have filled, all views together, or its neighbours decide."""
MOST = 0.5
"""Share of its weight that a Gaussian has to have in the masks."""


@dataclass(frozen=True, eq=False)
class Members:
    """A region that some Gaussians of a scene are, and what lies nearer to them than to the others."""

    means: Float[Tensor, "gaussians 3"]
    """Of all Gaussians, in scene units."""
    chosen: Bool[Tensor, " gaussians"]
    """Which of them are the region."""

    def contains(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether the Gaussian that is nearest to each point is one of the region's."""
        nearest = KDTree(self.means.cpu().numpy()).query(points.detach().cpu().numpy())[1]
        return self.chosen.cpu()[torch.from_numpy(nearest)].to(points.device)


def render_values(
    model: SplatfactoScene, camera: Cameras, values: Float[Tensor, "gaussians channels"]
) -> Float[Tensor, "height width channels"]:
    """Render values of Gaussians in place of their colours, over zeros, with the graph of the values alone."""
    camera = camera.to(model.device)
    pose = model.camera_optimizer.apply_to_camera(camera).detach()
    image, _, _ = rasterization(
        means=model.means.detach(),
        quats=model.quats.detach(),
        scales=model.scales.detach().exp(),
        opacities=model.opacities.detach().sigmoid()[:, 0],
        colors=values,
        viewmats=viewmat_of(pose),
        Ks=camera.get_intrinsics_matrices().to(model.device),
        width=int(camera.width[0]),
        height=int(camera.height[0]),
        packed=False,
        rasterize_mode=model.config.rasterize_mode,
    )
    return image[0]


def members_of_masks(
    model: SplatfactoScene,
    cameras: Sequence[Cameras],
    masks: Sequence[Bool[Tensor, "_ _"]],
    counted: Sequence[Bool[Tensor, "_ _"]],
) -> Members:
    """The Gaussians that the masks show; those that no view shows go with the nearest one that some view shows.

    Args:
        cameras: one camera each, batch size 1, at the mask's size.
        counted: which pixels have a say.
    """
    sums = torch.zeros(len(model.means), 2, device=model.device)
    for camera, mask, counts in zip(cameras, masks, counted, strict=True):
        weights = torch.stack([mask & counts, counts], dim=-1).to(sums)
        with torch.enable_grad():
            values = torch.zeros_like(sums, requires_grad=True)
            total = (render_values(model, camera, values) * weights).sum()
            sums += torch.autograd.grad(total, values)[0]
    chosen, seen = sums[:, 0] > MOST * sums[:, 1], sums[:, 1] > SEEN
    means = model.means.detach()
    if bool(seen.any()) and not bool(seen.all()):
        chosen[~seen] = Members(means[seen], chosen[seen]).contains(means[~seen])
    return Members(means, chosen)
