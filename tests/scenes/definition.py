"""Rasterisation of Gaussians as it is defined (Kerbl et al. 2023), written out pixel by pixel."""

import math

import torch

from .random_splats import HEIGHT, WIDTH


def project_by_definition(means, quats, scales, viewmat, K, width, height, eps2d):
    """Mean, conic, compensation, 3-sigma radius and depth of each Gaussian: x -> K x / z and its derivative J."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rotation = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )
    result = []
    for mean, R, s in zip(means, rotation, scales, strict=True):
        tx, ty, tz = viewmat[:3, :3] @ mean + viewmat[:3, 3]
        if not 0.01 <= tz.item() <= 1e10:
            result.append(None)
            continue
        fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
        lx = (tx / tz).clamp(-(cx / fx + margin_x), (width - cx) / fx + margin_x)
        ly = (ty / tz).clamp(-(cy / fy + margin_y), (height - cy) / fy + margin_y)
        zero = torch.zeros_like(tz)
        J = torch.stack([torch.stack([fx / tz, zero, -fx * lx / tz]), torch.stack([zero, fy / tz, -fy * ly / tz])])
        M = J @ viewmat[:3, :3] @ R @ torch.diag(s)
        sharp = M @ M.T
        blurred = sharp + eps2d * torch.eye(2, dtype=sharp.dtype)
        compensation = (torch.linalg.det(sharp) / torch.linalg.det(blurred)).sqrt()
        mean2d = torch.stack([fx * tx / tz + cx, fy * ty / tz + cy])
        b = blurred.detach().trace() / 2
        radius = math.ceil(3 * math.sqrt(b + math.sqrt(max(0.01, b * b - torch.linalg.det(blurred.detach())))))
        result.append((mean2d, torch.linalg.inv(blurred), compensation, radius, tz))
    return result


def composite_by_definition(gaussians, colors, opacities, width, height, tile_size):
    """The pixel loop: `gaussians` holds (mean2d, conic matrix, radius, depth) or None; nearest first, one by one."""
    order = sorted((i for i, g in enumerate(gaussians) if g is not None), key=lambda i: gaussians[i][3].item())
    image, alphas = [], []
    for row in range(height):
        for column in range(width):
            T = torch.ones((), dtype=colors.dtype)
            C = torch.zeros(colors.shape[-1], dtype=colors.dtype)
            for i in order:
                mean, conic, radius, _ = gaussians[i]
                reaches = True
                for pixel, m, extent in ((column, mean[0], width), (row, mean[1], height)):
                    tile = pixel // tile_size
                    low = math.floor((m.item() - radius) / tile_size)
                    high = math.ceil((m.item() + radius) / tile_size)
                    reaches &= low <= tile < high and m.item() + radius > 0 and m.item() - radius < extent
                if not reaches:
                    continue
                d = torch.tensor([column + 0.5, row + 0.5], dtype=colors.dtype) - mean
                alpha = (opacities[i] * torch.exp(-0.5 * d @ conic @ d)).clamp_max(0.999)
                if alpha.item() < 1 / 255:
                    continue
                if (T * (1 - alpha)).item() <= 1e-4:
                    break
                C = C + alpha * T * colors[i]
                T = T * (1 - alpha)
            image.append(C)
            alphas.append(1 - T)
    return torch.stack(image).view(height, width, -1), torch.stack(alphas).view(height, width, 1)


def rasterize_by_definition(
    scene,
    Ks,
    width=WIDTH,
    height=HEIGHT,
    render_mode="RGB",
    rasterize_mode="classic",
    sh_degree=None,
    backgrounds=None,
    eps2d=0.3,
    tile_size=16,
):
    renders, alphas = [], []
    for camera, (viewmat, K) in enumerate(zip(scene["viewmats"], Ks, strict=True)):
        projected = project_by_definition(
            scene["means"], scene["quats"], scene["scales"], viewmat, K, width, height, eps2d
        )
        colors = scene["colors"]
        if sh_degree is not None:
            origin = torch.linalg.inv(viewmat)[:3, 3]
            direction = scene["means"] - origin
            x, y, z = (direction / direction.norm(dim=-1, keepdim=True)).unbind(-1)
            value = 0.5 * math.sqrt(1 / math.pi) * colors[:, 0]
            if sh_degree == 1:
                band = torch.stack([-y, z, -x], -1) * math.sqrt(3 / (4 * math.pi))
                value = value + (band[..., None] * colors[:, 1:4]).sum(1)
            colors = (value + 0.5).clamp_min(0)
        elif colors.dim() == 3:
            colors = colors[camera]
        opacities = [
            o * (p[2] if p is not None and rasterize_mode == "antialiased" else 1)
            for o, p in zip(scene["opacities"], projected, strict=True)
        ]
        depths = torch.stack([colors.new_zeros(()) if p is None else p[4] for p in projected])[:, None]
        gaussians = [None if p is None else (p[0], p[1], p[3], p[4]) for p in projected]
        rgbd, alpha = composite_by_definition(
            gaussians, torch.cat([colors, depths], -1), opacities, width, height, tile_size
        )
        rgb, depth = rgbd[..., :-1], rgbd[..., -1:]
        if backgrounds is not None:
            rgb = rgb + (1 - alpha) * backgrounds[camera]
        if "ED" in render_mode:
            depth = depth / alpha.clamp_min(1e-10)
        parts = ([rgb] if "RGB" in render_mode else []) + ([depth] if render_mode != "RGB" else [])
        renders.append(torch.cat(parts, -1))
        alphas.append(alpha)
    return torch.stack(renders), torch.stack(alphas)
