"""Random Gaussians, drawn by the CPU rasteriser, and what their tests compare."""

import torch

from pds_nerfstudio.scenes.rasterize import rasterization

WIDTH, HEIGHT = 19, 13
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def make_scene(seed, n=14, cameras=1, sh_bases=None, dtype=torch.float64, opacity=(0.02, 1.0), size=(0.02, 0.35)):
    """Random Gaussians in front of, beside and behind cameras that look along z."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape, low=0.0, high=1.0):
        return low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)

    means = torch.cat([uniform(n, 2, low=-1.2, high=1.2), uniform(n, 1, low=-0.5, high=4)], -1)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    angle = uniform(cameras, low=-0.3, high=0.3)
    viewmats[:, 0, 0] = viewmats[:, 2, 2] = angle.cos()
    viewmats[:, 0, 2], viewmats[:, 2, 0] = angle.sin(), -angle.sin()
    viewmats[:, :3, 3] = uniform(cameras, 3, low=-0.2, high=0.2)
    scene = {
        "means": means,
        "quats": torch.randn(n, 4, generator=g, dtype=torch.float64),
        "scales": uniform(n, 3, low=size[0], high=size[1]),
        "opacities": uniform(n, low=opacity[0], high=opacity[1]),
        "colors": uniform(n, 3) if sh_bases is None else uniform(n, sh_bases, 3, low=-0.5, high=0.5),
        "viewmats": viewmats,
    }
    Ks = torch.tensor([[15.0, 0, 9.1], [0, 16.0, 6.7], [0, 0, 1]], dtype=dtype).repeat(cameras, 1, 1)
    return {k: v.to(dtype).requires_grad_() for k, v in scene.items()}, Ks


def draw(scene, Ks, width=WIDTH, height=HEIGHT, **options):
    return rasterization(**scene, Ks=Ks, width=width, height=height, packed=False, **options)


def gradients(render, alpha, inputs, seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(t.shape, generator=g, dtype=torch.float64).to(t) for t in (render, alpha)]
    loss = (render * weights[0]).sum() + (alpha * weights[1]).sum()
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


def assert_same(actual, expected, tolerance=1e-5, what="the result"):
    actual, expected = actual.detach(), expected.detach()
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale, msg=lambda m: f"{what}: {m}")
