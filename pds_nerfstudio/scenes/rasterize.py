"""Gaussian splatting without CUDA: `gsplat.rasterization` on a GPU, the same function in plain torch on a CPU.

Gaussians are projected by gsplat's own torch functions, and composited in `scenes.composite`. An image rendered here is
the image rendered there.

The trap: a projection divided by the depth of a Gaussian on the camera plane is infinite, and its gradient 0 * inf.
Gaussians outside the near and far plane are therefore removed *before* the projection.
"""

import math
from typing import Any, Literal

import torch
from gsplat import rasterization as gsplat_rasterization
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from jaxtyping import Float
from torch import Tensor

from pds_nerfstudio.scenes.composite import composite


def rasterization(
    means: Float[Tensor, "gaussians 3"],
    quats: Float[Tensor, "gaussians 4"] | None,
    scales: Float[Tensor, "gaussians 3"] | None,
    opacities: Float[Tensor, " gaussians"],
    colors: Float[Tensor, "..."],
    viewmats: Float[Tensor, "cameras 4 4"],
    Ks: Float[Tensor, "cameras 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Float[Tensor, "cameras channels"] | None = None,
    render_mode: Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"] = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye"] = "pinhole",
    covars: Float[Tensor, "gaussians 3 3"] | None = None,
) -> tuple[Float[Tensor, "cameras height width out"], Float[Tensor, "cameras height width 1"], dict[str, Any]]:
    """`gsplat.rasterization` where the tensors are on a GPU, the same in plain torch where they are on a CPU.

    Names, defaults and results are those of gsplat 1.4.0, whose documentation describes every argument. On a CPU,
    `packed=False` has to be given (gsplat's default is True), `channel_chunk` has no effect, and the result is also
    differentiable in `Ks`.

    Args:
        means: centres, world units.
        quats: rotations (w, x, y, z), normalised here; unused with `covars`.
        scales: standard deviations along the rotated axes, world units; unused with `covars`.
        opacities: in [0, 1].
        colors: [(cameras) gaussians channels], or with `sh_degree` [(cameras) gaussians bases 3] coefficients of the
            real spherical harmonics, of which 1/2 + the sum, clamped at 0 from below, is the colour.
        viewmats: world to camera, x right, y down, z forward.
        Ks: intrinsics, pixels.
        width: of the image, pixels.
        height: of the image, pixels.
        near_plane: Gaussians with their centre closer than this are not drawn.
        far_plane: nor are those beyond this.
        radius_clip: nor those whose 3-sigma radius in pixels is at most this.
        eps2d: added to the variances of the projected Gaussian, pixels².
        sh_degree: degree in use, at most the one of `colors`; None: `colors` are colours.
        backgrounds: composited behind the colours (not behind depth).
        render_mode: colours, accumulated depth (D), expected depth (ED), or colours and then depth.
        absgrad: leave `info["means2d"].absgrad` after the backward pass.
        rasterize_mode: "antialiased" multiplies opacity by the square root of det(Sigma) / det(Sigma + eps2d I), Sigma
            the projected covariance (Yu et al. 2024, "Mip-Splatting").

    Returns:
        The rendering, its alpha, and a dictionary with what gsplat's densification strategies read: `means2d`
        [cameras gaussians 2] (in the graph; call `retain_grad()` on it), `radii` int32 [cameras gaussians] (0: not
        drawn), `depths`, `conics`, `opacities`, `width`, `height`, `n_cameras`, `tile_size`, `tile_width`,
        `tile_height`, `gaussian_ids` and `camera_ids` (None). gsplat's intersection lists are there on a GPU only.

    Raises:
        ValueError: an option or a shape that the CPU path cannot render; the sentence says what to pass instead.
    """
    if means.is_cuda:
        return gsplat_rasterization(
            means=means,
            quats=quats,  # pyright: ignore[reportArgumentType]
            scales=scales,  # pyright: ignore[reportArgumentType]
            opacities=opacities,
            colors=colors,
            viewmats=viewmats,
            Ks=Ks,
            width=width,
            height=height,
            near_plane=near_plane,
            far_plane=far_plane,
            radius_clip=radius_clip,
            eps2d=eps2d,
            sh_degree=sh_degree,
            packed=packed,
            tile_size=tile_size,
            backgrounds=backgrounds,
            render_mode=render_mode,
            sparse_grad=sparse_grad,
            absgrad=absgrad,
            rasterize_mode=rasterize_mode,
            channel_chunk=channel_chunk,
            distributed=distributed,
            camera_model=camera_model,
            covars=covars,
        )
    _refuse(packed, sparse_grad, distributed, camera_model, render_mode, rasterize_mode, tile_size)
    cameras, n = len(viewmats), len(means)
    _check_colors(colors, sh_degree, cameras, n)

    if covars is None:
        if quats is None or scales is None:
            raise ValueError("rasterization needs quats and scales, or covars.")
        covars, _ = _quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    assert covars is not None
    radii, means2d, depths, conics = _project(
        means, covars, viewmats, Ks, width, height, eps2d, near_plane, far_plane, radius_clip
    )
    opacities = opacities.expand(cameras, n)
    if rasterize_mode == "antialiased":
        opacities = opacities * _compensation(conics, eps2d)
    info = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": opacities,
        "width": width,
        "height": height,
        "n_cameras": cameras,
        "tile_size": tile_size,
        "tile_width": -(-width // tile_size),
        "tile_height": -(-height // tile_size),
    }

    channels = []
    if "RGB" in render_mode:
        channels.append(
            colors.expand(cameras, n, -1)
            if sh_degree is None
            else _sh_colors(colors, sh_degree, means, viewmats, radii)
        )
    if render_mode != "RGB":
        channels.append(depths[..., None])
    render, alpha = composite(
        means2d, conics, torch.cat(channels, -1), opacities, depths, radii, width, height, tile_size, absgrad
    )
    parts = []
    if "RGB" in render_mode:
        rgb = render if render_mode == "RGB" else render[..., :-1]
        parts.append(rgb if backgrounds is None else rgb + (1 - alpha) * backgrounds[:, None, None])
    if render_mode != "RGB":
        depth = render[..., -1:]
        parts.append(depth / alpha.clamp(min=1e-10) if "ED" in render_mode else depth)
    return torch.cat(parts, -1), alpha, info


def _refuse(
    packed: bool,
    sparse_grad: bool,
    distributed: bool,
    camera_model: str,
    render_mode: str,
    rasterize_mode: str,
    tile_size: int,
) -> None:
    if packed:
        raise ValueError("packed=True needs a CUDA device; pass packed=False to rasterize on the CPU.")
    if sparse_grad:
        raise ValueError("sparse_grad=True needs packed=True and a CUDA device; pass sparse_grad=False.")
    if distributed:
        raise ValueError("distributed=True needs CUDA devices; pass distributed=False to rasterize on the CPU.")
    if camera_model != "pinhole":
        raise ValueError(f"camera_model={camera_model!r} needs a CUDA device; the CPU path renders 'pinhole' only.")
    if render_mode not in ("RGB", "D", "ED", "RGB+D", "RGB+ED"):
        raise ValueError(f"render_mode={render_mode!r} is unknown; use 'RGB', 'D', 'ED', 'RGB+D' or 'RGB+ED'.")
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode={rasterize_mode!r} is unknown; use 'classic' or 'antialiased'.")
    if tile_size < 1:
        raise ValueError(f"tile_size={tile_size} is not a number of pixels; use 16.")


def _check_colors(colors: Tensor, sh_degree: int | None, cameras: int, n: int) -> None:
    leading = ((n,), (cameras, n))
    if sh_degree is None:
        if tuple(colors.shape[:-1]) not in leading:
            raise ValueError(
                f"colors has shape {tuple(colors.shape)}; without sh_degree it must be [{n}, channels] or "
                f"[{cameras}, {n}, channels]."
            )
    elif tuple(colors.shape[:-2]) not in leading or colors.shape[-1] != 3:
        raise ValueError(
            f"colors has shape {tuple(colors.shape)}; with sh_degree it must be [{n}, bases, 3] or "
            f"[{cameras}, {n}, bases, 3]."
        )
    elif (sh_degree + 1) ** 2 > colors.shape[-2]:
        raise ValueError(
            f"sh_degree={sh_degree} needs {(sh_degree + 1) ** 2} spherical harmonics, colors has {colors.shape[-2]}."
        )


def _project(
    means: Tensor,
    covars: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gsplat's projection of the Gaussians between the planes, zeros for the others: radii, means2d, depths, conics."""
    views = []
    for viewmat, K in zip(viewmats, Ks, strict=True):
        with torch.no_grad():
            z = means @ viewmat[2, :3] + viewmat[2, 3]
            seen = ((z >= near_plane) & (z <= far_plane)).nonzero().squeeze(-1)
        radii, means2d, depths, conics, _ = _fully_fused_projection(
            means.index_select(0, seen),
            covars.index_select(0, seen),
            viewmat[None],
            K[None],
            width,
            height,
            eps2d,
            -math.inf,
            math.inf,
        )
        with torch.no_grad():
            # A radius beyond int32 wraps to a negative number where CUDA saturates.
            radii = torch.where(radii < 0, torch.iinfo(torch.int32).max, radii)
            a, b, c = conics.double().unbind(-1)
            radii *= (radii > radius_clip) & (a * c > b * b)
        views.append(
            [t.new_zeros(len(means), *t.shape[2:]).index_copy(0, seen, t[0]) for t in (radii, means2d, depths, conics)]
        )
    radii, means2d, depths, conics = (torch.stack(t) for t in zip(*views, strict=True))
    return radii, means2d, depths, conics


def _compensation(conics: Tensor, eps2d: float) -> Tensor:
    """sqrt(det Sigma / det(Sigma + eps I)) from the conic Q = (Sigma + eps I)^-1, as sqrt(det(I - eps Q)).

    gsplat's torch function takes the square root of a ratio that rounding can make 0, where its gradient is not finite.
    """
    a, b, c = conics.unbind(-1)
    return ((1 - eps2d * a) * (1 - eps2d * c) - (eps2d * b) ** 2).clamp_min(1e-12).sqrt()


def _sh_colors(coefficients: Tensor, degree: int, means: Tensor, viewmats: Tensor, radii: Tensor) -> Tensor:
    """[cameras gaussians 3] colours seen along the direction from each camera; 0 for Gaussians that are not drawn."""
    origins = torch.inverse(viewmats)[:, :3, 3]
    bases = (degree + 1) ** 2
    colors = []
    for camera, origin in enumerate(origins):
        seen = (radii[camera] > 0).nonzero().squeeze(-1)
        own = coefficients if coefficients.dim() == 3 else coefficients[camera]
        color = _spherical_harmonics(degree, means.index_select(0, seen) - origin, own[:, :bases].index_select(0, seen))
        colors.append(color.new_zeros(len(means), 3).index_copy(0, seen, (color + 0.5).clamp_min(0)))
    return torch.stack(colors)
