"""Gaussian splatting without CUDA: `gsplat.rasterization` on a GPU, the same function in plain torch on a CPU.

A pixel at p = (column + 1/2, row + 1/2) composites the Gaussians i = 1, 2, ... in front of it, nearest first
(Kerbl et al. 2023, "3D Gaussian Splatting", eq. 2-3):

    d_i     = p - mu_i                                                 mu_i: projected mean
    sigma_i = 1/2 (a_i d_x^2 + c_i d_y^2) + b_i d_x d_y                (a, b, c): conic, inverse of the 2D covariance
    alpha_i = min(0.999, o_i exp(-sigma_i)),  taken as 0 below 1/255
    T_i     = prod_{j <= i} (1 - alpha_j)                              transmittance behind Gaussian i
    C       = sum_i c_i alpha_i T_{i-1},  over the i with T_i > 1e-4,  A = sum_i alpha_i T_{i-1}

and, with s_i = <c_i, dL/dC> + dL/dA, the backward pass is

    dL/dlog alpha_i = alpha_i T_{i-1} s_i - alpha_i / (1 - alpha_i) sum_{j > i} alpha_j T_{j-1} s_j,

zero where alpha was clamped. Thresholds, pixel centres and the square of `tile_size` tiles that a Gaussian reaches are
those of gsplat 1.4.0's kernels, so that an image rendered here is the image rendered there.

Why it is fast enough: log alpha is a quadratic polynomial of the pixel's position inside a small tile. With
Gaussians listed per tile, all of them are evaluated by one matrix product with the six monomials of the tile's
pixels, and all the sums over pixels of the backward pass are the transposed product. Tiles with lists of similar length
are padded to one and composited together, by a cumulative product along the list.

The trap: a projection divided by the depth of a Gaussian on the camera plane is infinite, and its gradient 0 * inf.
Gaussians outside the near and far plane are therefore removed *before* the projection.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from gsplat import rasterization as gsplat_rasterization
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from jaxtyping import Float, Int
from torch import Tensor

ALPHA_MAX = 0.999
ALPHA_MIN = 1 / 255
TRANSMITTANCE_MIN = 1e-4

SUBTILE = 4
"""Side in pixels of the tiles composited together; the largest divisor of `tile_size` and this is used."""
CHUNK = 1 << 17
"""Number of (Gaussian, pixel) pairs evaluated at once, so that they stay in the processor's cache."""

KEPT_BYTES = 1 << 28
"""What compositing may keep for its backward pass; a larger image's alphas are computed again there instead."""


@dataclass(frozen=True)
class TileLists:
    """For each small tile the Gaussians that may be visible in it, nearest first.

    The K listed Gaussians are numbered by depth. Lists of similar length are padded to the same length l and form a
    chunk, an array [t l] for t tiles; all chunks one after the other are the M entries.
    """

    side: int
    """Of the small tiles, pixels."""
    rows: int
    columns: int
    ids: Int[Tensor, " K"]
    """Indices of the listed Gaussians in the flattened [cameras, gaussians]."""
    gaussian: Int[Tensor, " M"]
    """The Gaussian of each entry, 0..K-1; K is padding."""
    tile: Int[Tensor, " M"]
    """The tile of each entry, numbered row by row, camera by camera."""
    tiles: Int[Tensor, " T"]
    """The tiles with a list, in the order of the chunks."""
    chunks: tuple[tuple[int, int], ...]
    """The shape (t, l) of each chunk."""

    def slices(self) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
        """Of each chunk: its place in `tiles`, its place in the entries, its shape."""
        tile = entry = 0
        for t, length in self.chunks:
            yield slice(tile, tile + t), slice(entry, entry + t * length), (t, length)
            tile, entry = tile + t, entry + t * length


@torch.no_grad()
def list_tiles(
    means2d: Float[Tensor, "cameras gaussians 2"],
    conics: Float[Tensor, "cameras gaussians 3"],
    opacities: Float[Tensor, "cameras gaussians"],
    depths: Float[Tensor, "cameras gaussians"],
    radii: Int[Tensor, "cameras gaussians"],
    width: int,
    height: int,
    tile_size: int,
) -> TileLists:
    """Sort Gaussians by depth and list them per small tile.

    A Gaussian is listed where the tiles that gsplat gives it (all tiles of `tile_size` pixels that touch the square of
    half-side `radii` around its mean) meet the bounding box of its ellipse alpha >= 1/255.
    """
    cameras, n = radii.shape
    side = math.gcd(SUBTILE, tile_size)
    rows, columns = -(-height // side), -(-width // side)

    a, b, c = conics.detach().double().flatten(0, 1).unbind(-1)
    determinant = a * c - b * b
    opacity = opacities.detach().double().flatten()
    listed = (radii.flatten() > 0) & (opacity >= ALPHA_MIN) & (determinant > 0) & (a > 0)
    ids = listed.nonzero().squeeze(-1)
    ids = ids[torch.sort(depths.flatten()[ids], stable=True).indices]

    mean = means2d.double().flatten(0, 1)[ids]
    extent = 2 * torch.log(opacity[ids] / ALPHA_MIN) / determinant[ids]
    half = torch.stack([(extent * c[ids]).sqrt(), (extent * a[ids]).sqrt()], -1)
    radius = radii.flatten()[ids].double()[:, None]
    last = mean.new_tensor([width - 1, height - 1])
    low = torch.maximum(((mean - radius) / tile_size).floor() * tile_size, (mean - half - 0.5).ceil()).clamp_min(0)
    high = torch.minimum(((mean + radius) / tile_size).ceil() * tile_size - 1, (mean + half - 0.5).floor())
    high = torch.minimum(high, last)
    inside = (low <= high).all(-1)
    ids, low, high = ids[inside], low[inside].long() // side, high[inside].long() // side

    span = high - low + 1
    count = span.prod(-1)
    total = int(count.sum())
    first = count.cumsum(0) - count
    corner = (ids // n) * rows * columns + low[:, 1] * columns + low[:, 0]
    gaussian = torch.repeat_interleave(torch.arange(len(ids)), count, output_size=total)
    k = torch.arange(total) - first.index_select(0, gaussian)
    across = span[:, 0].contiguous().index_select(0, gaussian)
    down = k // across
    tile = corner.index_select(0, gaussian) + down * columns + (k - down * across)

    # A stable sort by tile keeps each list in order of depth.
    tile, order = torch.sort(tile.int(), stable=True)
    gaussian = gaussian.index_select(0, order)
    counts = torch.bincount(tile, minlength=cameras * rows * columns)
    longest_first, tiles = torch.sort(counts, descending=True)
    chunks = _chunks([count for count in longest_first.tolist() if count > 0], side * side)
    tiles = tiles[: sum(t for t, _ in chunks)]

    lengths = torch.tensor([length for t, length in chunks for _ in range(t)], dtype=torch.long)
    # Entry i of the unpadded lists moves by what its tile's list moves.
    shift = torch.zeros_like(counts)
    shift[tiles] = (lengths.cumsum(0) - lengths) - (counts.cumsum(0) - counts)[tiles]
    padded = gaussian.new_full((int(lengths.sum()),), len(ids))
    padded[torch.arange(total) + shift.index_select(0, tile)] = gaussian
    return TileLists(
        side=side,
        rows=rows,
        columns=columns,
        ids=ids,
        gaussian=padded,
        tile=torch.repeat_interleave(tiles, lengths, output_size=len(padded)),
        tiles=tiles,
        chunks=chunks,
    )


def _chunks(counts: list[int], pixels: int) -> tuple[tuple[int, int], ...]:
    """Group lists, longest first, whose lengths are at least 3/4 of the longest, into arrays of about CHUNK pairs.

    A chunk may be an eighth of that before the lengths matter: many small arrays cost more than some padding.
    """
    chunks = []
    i = 0
    while i < len(counts):
        longest = counts[i]
        most = max(1, CHUNK // (longest * pixels))
        j = i + max(1, most // 8)
        while j < min(i + most, len(counts)) and 4 * counts[j] >= 3 * longest:
            j += 1
        j = min(j, len(counts))
        chunks.append((j - i, longest))
        i = j
    return tuple(chunks)


def _entry_parameters(means2d: Tensor, conics: Tensor, lists: TileLists, *more: Tensor) -> tuple[Tensor, ...]:
    """For each entry a, b, c, the tile's centre minus the mean (x, y), and rows [rows cameras*gaussians] of `more`."""
    rows = torch.cat([conics.flatten(0, 1).T, means2d.flatten(0, 1).T, *more]).index_select(1, lists.ids)
    a, b, c, mean_x, mean_y, *values = F.pad(rows, (0, 1)).index_select(1, lists.gaussian)
    index = torch.arange(lists.rows * lists.columns).repeat(len(means2d))
    row = torch.div(index, lists.columns, rounding_mode="floor")
    centre = torch.stack([index - row * lists.columns, row]).to(means2d.dtype) * lists.side + lists.side / 2
    x, y = centre.index_select(1, lists.tile)
    return a, b, c, x - mean_x, y - mean_y, *values


def _log_alpha(a: Tensor, b: Tensor, c: Tensor, x: Tensor, y: Tensor, opacity: Tensor) -> Tensor:
    """[6 M] log alpha of each entry as a polynomial: the coefficients of `_monomials`."""
    # Padding has opacity 0, log -inf and coefficients 0: alpha is 0 without a mask.
    sigma = 0.5 * (a * x * x + c * y * y) + b * x * y
    return torch.stack([opacity.log() - sigma, -(a * x + b * y), -(b * x + c * y), -0.5 * a, -b, -0.5 * c])


def _alpha_and_weight(coefficients: Tensor, shape: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """[t l side²] alpha_i, and alpha_i T_{i-1}, of one chunk, both 0 where nothing is seen."""
    alpha = (coefficients.T @ _monomials(side, coefficients.dtype)).view(*shape, -1).exp_().clamp_max_(ALPHA_MAX)
    F.threshold(alpha, _below(ALPHA_MIN, alpha.dtype), 0, inplace=True)
    transmittance = alpha.new_ones(shape[0], shape[1] + 1, side**2)
    before, behind = transmittance[:, :-1], transmittance[:, 1:]
    torch.cumprod(1 - alpha, 1, out=behind)
    weight = torch.gt(behind, TRANSMITTANCE_MIN, out=torch.empty_like(alpha))
    alpha *= weight
    return alpha, torch.mul(alpha, before, out=weight)


class _Composite(torch.autograd.Function):
    """(C, A) of the module's equations as [cameras height width channels+1], alpha last."""

    @staticmethod
    def forward(ctx, means2d, conics, colors, opacities, lists: TileLists, size, absgrad: bool, keep: bool) -> Tensor:
        side = lists.side
        cameras, (height, width), channels = len(means2d), size, colors.shape[-1] + 1
        a, b, c, x, y, opacity, *color = _entry_parameters(
            means2d, conics, lists, opacities.flatten()[None], colors.flatten(0, 1).T
        )
        color = torch.stack([*color, torch.ones_like(x)])
        coefficients = _log_alpha(a, b, c, x, y, opacity)
        keep = keep and 2 * x.numel() * side**2 * x.element_size() <= KEPT_BYTES

        image = means2d.new_zeros(cameras * lists.rows * lists.columns, channels, side**2)
        saved = []
        for tiles, entries, shape in lists.slices():
            alpha, weight = _alpha_and_weight(coefficients[:, entries], shape, side)
            image[lists.tiles[tiles]] = color[:, entries].view(-1, *shape).transpose(0, 1) @ weight
            if keep:
                saved += [alpha, weight]

        ctx.save_for_backward(means2d, conics, opacities, colors, color, *saved)
        ctx.lists, ctx.absgrad = lists, absgrad
        image = image.view(cameras, lists.rows, lists.columns, channels, side, side).permute(0, 1, 4, 2, 5, 3)
        return image.reshape(cameras, lists.rows * side, -1, channels)[:, :height, :width].contiguous()

    @staticmethod
    def backward(ctx, grad: Tensor):
        means2d, conics, opacities, colors, color, *saved = ctx.saved_tensors
        lists: TileLists = ctx.lists
        side, rows, columns = lists.side, lists.rows, lists.columns
        _, height, width, channels = grad.shape
        grad = F.pad(grad, (0, 0, 0, columns * side - width, 0, rows * side - height))
        grad = grad.view(-1, rows, side, columns, side, channels).permute(0, 1, 3, 5, 2, 4)
        grad = grad.reshape(-1, channels, side**2)

        a, b, c, x, y, opacity = _entry_parameters(means2d, conics, lists, opacities.flatten()[None])
        coefficients = None if saved else _log_alpha(a, b, c, x, y, opacity)
        monomials = _monomials(side, grad.dtype)
        moments = grad.new_empty(6, len(x))
        color_grad = grad.new_empty(channels, len(x))
        # d sigma / d mean is minus these linear functions of the pixel's position.
        slopes = [torch.stack(p) for p in ((a * x + b * y, a, b), (b * x + c * y, b, c))] if ctx.absgrad else []
        absolute = grad.new_empty(len(slopes), len(x))
        kept = zip(saved[::2], saved[1::2], strict=True)
        for tiles, entries, shape in lists.slices():
            if coefficients is None:
                alpha, weight = next(kept)
            else:
                alpha, weight = _alpha_and_weight(coefficients[:, entries], shape, side)
            pixel_grad = grad[lists.tiles[tiles]]
            share = color[:, entries].view(-1, *shape).permute(1, 2, 0) @ pixel_grad
            share *= weight
            behind = share.cumsum(1)
            behind = behind[:, -1:] - behind
            log_alpha_grad = share.addcmul_(behind, alpha / (1 - alpha), value=-1)
            log_alpha_grad *= torch.lt(alpha, ALPHA_MAX, out=behind)
            log_alpha_grad = log_alpha_grad.view(-1, side**2)
            moments[:, entries] = monomials @ log_alpha_grad.T
            color_grad[:, entries] = (pixel_grad @ weight.transpose(1, 2)).transpose(0, 1).flatten(1)
            for axis, slope in enumerate(slopes):
                absolute[axis, entries] = (slope[:, entries].T @ monomials[:3]).mul_(log_alpha_grad).abs_().sum(-1)

        # Moments about the tile's centre become moments about the mean, and these may be summed over tiles.
        one, u, v, uu, uv, vv = moments
        sums = []
        for values in (
            one,
            u + x * one,
            v + y * one,
            uu + x * (2 * u + x * one),
            uv + x * v + y * (u + x * one),
            vv + y * (2 * v + y * one),
            *color_grad[:-1],
            *absolute,
        ):
            sums.append(values.new_zeros(len(lists.ids) + 1).scatter_add_(0, lists.gaussian, values)[:-1])
        one, u, v, uu, uv, vv, *rest = sums
        a, b, c = conics.flatten(0, 1).index_select(0, lists.ids).unbind(-1)

        def scatter(*values: Tensor, like: Tensor) -> Tensor:
            flat = torch.zeros_like(like).view(-1, len(values))
            return flat.index_copy_(0, lists.ids, torch.stack(values, -1)).view_as(like)

        if ctx.absgrad:
            means2d.absgrad = scatter(*rest[channels - 1 :], like=means2d)
        return (
            scatter(a * u + b * v, b * u + c * v, like=means2d),
            scatter(-0.5 * uu, -uv, -0.5 * vv, like=conics),
            scatter(*rest[: channels - 1], like=colors),
            scatter(one / opacities.flatten().index_select(0, lists.ids), like=opacities),
            None,
            None,
            None,
            None,
        )


def _monomials(side: int, dtype: torch.dtype) -> Tensor:
    """[6 side²] the rows 1, u, v, u², uv, v² at the pixels of a tile, (u, v) measured from its centre in pixels."""
    axis = torch.arange(side, dtype=dtype) + 0.5 - side / 2
    v, u = (w.flatten() for w in torch.meshgrid(axis, axis, indexing="ij"))
    return torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v])


def _below(value: float, dtype: torch.dtype) -> float:
    """The largest number below `value` in `dtype`: `threshold` keeps what is strictly greater."""
    exact = torch.tensor(value, dtype=dtype)
    return float(torch.nextafter(exact, torch.zeros_like(exact)))


def composite(
    means2d: Float[Tensor, "cameras gaussians 2"],
    conics: Float[Tensor, "cameras gaussians 3"],
    colors: Float[Tensor, "cameras gaussians channels"],
    opacities: Float[Tensor, "cameras gaussians"],
    depths: Float[Tensor, "cameras gaussians"],
    radii: Int[Tensor, "cameras gaussians"],
    width: int,
    height: int,
    tile_size: int = 16,
    absgrad: bool = False,
) -> tuple[Float[Tensor, "cameras height width channels"], Float[Tensor, "cameras height width 1"]]:
    """Composite projected Gaussians over black: (C, A) of the module's equations, on a CPU, in float32 or float64.

    Differentiable in `means2d`, `conics`, `colors` and `opacities`. `depths` only order; Gaussians with `radii` <= 0 or
    a conic that is not positive definite are left out.

    Args:
        means2d: projected means, pixels.
        conics: (a, b, c) of the inverse 2D covariance, 1/pixels².
        colors: any number of channels, any range.
        opacities: in [0, 1].
        depths: distance along the viewing axis.
        radii: half-side in pixels of the square that gsplat's tiles are matched with.
        width: of the image, pixels.
        height: of the image, pixels.
        tile_size: side of gsplat's tiles, pixels.
        absgrad: also leave `means2d.absgrad`, the sum over pixels of |dL/dmeans2d|, after the backward pass (Ye et al.
            2024, "AbsGS", eq. 12).
    """
    lists = list_tiles(means2d, conics, opacities, depths, radii, width, height, tile_size)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (means2d, conics, colors, opacities))
    image = _Composite.apply(means2d, conics, colors, opacities, lists, (height, width), absgrad, keep)
    return image[..., :-1], image[..., -1:]


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
