"""The compositor of the CPU rasteriser: its gradients, its lists of tiles and what it keeps."""

import torch

from pds_nerfstudio.scenes import composite as compositing
from pds_nerfstudio.scenes.composite import composite, list_tiles

from .random_splats import HEIGHT, WIDTH, assert_same, draw, gradients, make_scene


def test_gradcheck_of_the_compositor():
    g = torch.Generator().manual_seed(3)
    n = 5
    means2d = (torch.rand(2, n, 2, generator=g, dtype=torch.float64) * 7).requires_grad_()
    conics = torch.tensor([0.3, 0.1, 0.25], dtype=torch.float64).repeat(2, n, 1)
    conics = (conics + 0.05 * torch.rand(2, n, 3, generator=g, dtype=torch.float64)).requires_grad_()
    colors = torch.rand(2, n, 2, generator=g, dtype=torch.float64, requires_grad=True)
    opacities = (0.3 + 0.6 * torch.rand(2, n, generator=g, dtype=torch.float64)).requires_grad_()
    depths = torch.rand(2, n, generator=g, dtype=torch.float64)
    radii = torch.full((2, n), 9, dtype=torch.int32)

    def function(*inputs):
        return composite(*inputs, depths, radii, 7, 6)

    assert torch.autograd.gradcheck(function, (means2d, conics, colors, opacities))


def test_absgrad_is_the_sum_over_pixels_of_absolute_gradients():
    scene, Ks = make_scene(20)
    weights = torch.randn(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    render, _, info = draw(scene, Ks)
    pixels = (render * weights).sum(-1).flatten()
    brute = sum(torch.autograd.grad(p, info["means2d"], retain_graph=True)[0].abs() for p in pixels)
    render, _, info = draw(scene, Ks, absgrad=True)
    info["means2d"].retain_grad()
    (render * weights).sum().backward()
    absgrad, grad = info["means2d"].absgrad, info["means2d"].grad
    torch.testing.assert_close(absgrad, brute, rtol=1e-9, atol=1e-12)
    assert bool((absgrad >= grad.abs() - 1e-12).all())
    assert bool((absgrad > 2 * grad.abs()).any())


def test_the_result_does_not_depend_on_how_tiles_are_grouped(monkeypatch):
    scene, Ks = make_scene(31, n=60)
    render, alpha, _ = draw(scene, Ks)
    expected = gradients(render, alpha, list(scene.values()))
    for chunk, side in ((1, 4), (10_000_000, 16), (500, 2)):
        monkeypatch.setattr(compositing, "CHUNK", chunk)
        monkeypatch.setattr(compositing, "SUBTILE", side)
        other, other_alpha, _ = draw(scene, Ks)
        assert_same(other, render, 1e-10)
        for a, b in zip(gradients(other, other_alpha, list(scene.values())), expected, strict=True):
            assert_same(a, b, 1e-10)


def test_alphas_that_are_computed_again_give_the_same_gradients_and_are_not_kept(monkeypatch):
    results = []
    for limit in (compositing.KEPT_BYTES, 0):
        monkeypatch.setattr(compositing, "KEPT_BYTES", limit)
        scene, Ks = make_scene(5, n=60)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            render, alpha, _ = draw(scene, Ks)
        results.append((sum(kept), gradients(render, alpha, list(scene.values()))))
    (plain, expected), (recomputing, actual) = results
    assert recomputing < plain
    for value, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=0)


def test_a_list_holds_each_gaussian_once_and_nearest_first():
    scene, Ks = make_scene(46, n=60, cameras=2)
    info = draw(scene, Ks)[2]
    arguments = [info[k] for k in ("means2d", "conics", "opacities", "depths", "radii")]
    lists = list_tiles(*arguments, WIDTH, HEIGHT, 16)
    ids = torch.cat([lists.ids, torch.tensor([-1])])[lists.gaussian]
    seen = set()
    for tiles, entries, shape in lists.slices():
        for tile, own in zip(lists.tiles[tiles].tolist(), ids[entries].view(shape), strict=True):
            own = own[own >= 0]
            assert len(own.unique()) == len(own) > 0
            assert bool((own // 60 == tile // (lists.rows * lists.columns)).all())
            assert bool((info["depths"].flatten()[own].diff() >= 0).all())
            assert tile not in seen
            seen.add(tile)
