"""Compositing of projected Gaussians on a CPU, tile by tile, with its backward pass.

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
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
