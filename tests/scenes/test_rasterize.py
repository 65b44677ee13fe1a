"""The CPU rasteriser against the definition, written out pixel by pixel, and against the laws it has to obey."""

import inspect
import math
import subprocess
import sys

import gsplat
import pytest
import torch
from gsplat.strategy import DefaultStrategy

from pds_nerfstudio.scenes.rasterize import rasterization

from .definition import rasterize_by_definition
from .random_splats import HEIGHT, NAMES, WIDTH, assert_same, draw, gradients, make_scene


@pytest.mark.parametrize(
    "case",
    [
        {"seed": 0},
        {"seed": 1, "tile_size": 8},
        {"seed": 2, "tile_size": 6, "backgrounds": True},
        {"seed": 3, "cameras": 2, "backgrounds": True},
        {"seed": 4, "rasterize_mode": "antialiased"},
        {"seed": 5, "render_mode": "D"},
        {"seed": 6, "render_mode": "ED", "rasterize_mode": "antialiased"},
        {"seed": 7, "render_mode": "RGB+D", "backgrounds": True},
        {"seed": 8, "render_mode": "RGB+ED", "sh_degree": 1},
        {"seed": 9, "sh_degree": 0, "cameras": 2},
        {"seed": 10, "opacity": (0.9, 1.0), "size": (0.3, 0.9), "n": 24},
        {"seed": 11, "size": (0.001, 0.01)},
        {"seed": 12, "eps2d": 0.1, "size": (0.01, 2.0)},
    ],
    ids=lambda case: "-".join(f"{k}={v}" for k, v in case.items()),
)
def test_images_and_all_gradients_equal_the_definition(case):
    case = dict(case)
    sh_bases = 9 if "sh_degree" in case else None
    making = {k: case.pop(k) for k in ("seed", "cameras", "opacity", "size", "n") if k in case}
    scene, Ks = make_scene(**making, sh_bases=sh_bases)
    inputs = [scene[k] for k in NAMES]
    if case.get("backgrounds"):
        case["backgrounds"] = torch.rand(len(Ks), 3, dtype=torch.float64, requires_grad=True)
        inputs.append(case["backgrounds"])
    render, alpha, _ = draw(scene, Ks, **case)
    expected_render, expected_alpha = rasterize_by_definition(scene, Ks, **case)
    assert float(expected_alpha.detach().max()) > 0.1
    assert_same(render, expected_render)
    assert_same(alpha, expected_alpha)
    names = [*NAMES, "backgrounds"]
    actual, expected = gradients(render, alpha, inputs), gradients(expected_render, expected_alpha, inputs)
    for name, a, b in zip(names, actual, expected, strict=False):
        assert_same(a, b, what=name)


def test_single_precision_equals_double_precision():
    scene, Ks = make_scene(30, n=200, size=(0.01, 0.1))
    single = {k: v.detach().float().requires_grad_() for k, v in scene.items()}
    render, alpha, _ = draw(single, Ks.float())
    expected_render, expected_alpha, _ = draw(scene, Ks)
    assert render.dtype == torch.float32
    assert_same(render.double(), expected_render, 1e-5)
    for a, b in zip(
        gradients(render, alpha, list(single.values())),
        gradients(expected_render, expected_alpha, list(scene.values())),
        strict=True,
    ):
        assert_same(a.double(), b, 1e-4)


def test_a_batch_of_cameras_equals_single_cameras():
    scene, Ks = make_scene(32, n=40, cameras=3, sh_bases=4)
    colors = scene["colors"].detach() + torch.arange(3.0)[:, None, None, None]
    scene["colors"] = colors.requires_grad_()
    batch, _, info = draw(scene, Ks, sh_degree=1, render_mode="RGB+ED")
    for camera in range(3):
        single = scene | {"viewmats": scene["viewmats"][camera : camera + 1], "colors": colors[camera]}
        render, _, own = draw(single, Ks[camera : camera + 1], sh_degree=1, render_mode="RGB+ED")
        assert_same(batch[camera], render[0], 1e-12)
        assert torch.equal(info["radii"][camera], own["radii"][0])


def test_the_order_of_the_gaussians_does_not_matter():
    scene, Ks = make_scene(33, n=40)
    permutation = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = {k: v if k == "viewmats" else v[permutation] for k, v in scene.items()}
    assert_same(draw(shuffled, Ks)[0], draw(scene, Ks)[0], 1e-12)


@pytest.mark.parametrize("n", [0, 6])
@pytest.mark.parametrize("sh_degree", [None, 2])
def test_an_empty_view_shows_the_background_and_gives_zero_gradients(n, sh_degree):
    scene, Ks = make_scene(40, n=n, sh_bases=None if sh_degree is None else 9)
    with torch.no_grad():
        scene["means"][:, 2] = torch.linspace(-5, 0, n)  # the last one in the camera's plane
        scene["viewmats"][:] = torch.eye(4)
    background = torch.tensor([[0.2, 0.5, 0.7]], dtype=torch.float64)
    render, alpha, info = draw(
        scene, Ks, backgrounds=background, absgrad=True, sh_degree=sh_degree, rasterize_mode="antialiased"
    )
    info["means2d"].retain_grad()
    assert torch.equal(render, background.expand_as(render))
    assert not alpha.any()
    assert not info["radii"].any()
    (render.sum() + alpha.sum()).backward()
    for name in NAMES:
        grad = scene[name].grad
        assert grad is None or not grad.any(), name
    assert not info["means2d"].grad.any()
    assert not info["means2d"].absgrad.any()


def test_gradients_stay_finite_with_gaussians_in_and_behind_the_camera_plane():
    scene, Ks = make_scene(41, n=30)
    with torch.no_grad():
        scene["viewmats"][:] = torch.eye(4)
        scene["means"][:5, 2] = 0
        scene["means"][5, :] = 0
        scene["means"][6:10, 2] = -1
        scene["scales"][10:14, 0] = 0
        scene["scales"][14, :] = 0
    for dtype in (torch.float32, torch.float64):
        own = {k: v.detach().to(dtype).requires_grad_() for k, v in scene.items()}
        render, alpha, info = draw(own, Ks.to(dtype), render_mode="RGB+ED", rasterize_mode="antialiased")
        assert bool((info["radii"][0, :10] == 0).all())
        for grad in gradients(render, alpha, list(own.values())):
            assert bool(torch.isfinite(grad).all())


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e7])
def test_a_huge_gaussian_covers_the_image_evenly(scale):
    scene, Ks = make_scene(42, n=1, dtype=torch.float32)
    with torch.no_grad():
        scene["means"][:] = torch.tensor([0.1, 0.1, 3.0])
        scene["viewmats"][:] = torch.eye(4)
        scene["scales"][:] = scale
        scene["quats"][:] = torch.tensor([1.0, 0, 0, 0])
        scene["opacities"][:] = 0.5
    render, alpha, _ = draw(scene, Ks)
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.5), rtol=0, atol=2e-4)
    for grad in gradients(render, alpha, list(scene.values())):
        assert bool(torch.isfinite(grad).all())


def test_an_opaque_gaussian_is_clamped_and_hides_what_lies_behind():
    scene, Ks = make_scene(48, n=2)
    with torch.no_grad():
        scene["means"][:] = torch.tensor([[0.0, 0, 2], [0, 0, 3]])
        scene["viewmats"][:] = torch.eye(4)
        scene["scales"][:] = 1e4
        scene["opacities"][:] = 1
    render, alpha, _ = draw(scene, Ks)
    # The second one would leave 0.001 * 0.001 <= 1e-4 of the light, and is therefore not drawn at all.
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.999), rtol=0, atol=1e-12)
    torch.testing.assert_close(render, 0.999 * scene["colors"][0].expand_as(render))
    (render.sum() + alpha.sum()).backward()
    assert bool((scene["colors"].grad[0] > 0).all())
    assert not scene["colors"].grad[1].any()
    assert not scene["opacities"].grad.any()


def test_a_gaussian_ends_with_the_tiles_that_touch_its_three_sigma_square():
    scene, Ks = make_scene(49, n=1)
    with torch.no_grad():
        scene["means"][:] = torch.tensor([0.0, 0, 1])
        scene["viewmats"][:] = torch.eye(4)
        scene["scales"][:] = 0.5
        scene["opacities"][:] = 1
    Ks = torch.tensor([[[10.0, 0, 20], [0, 10, 20], [0, 0, 1]]], dtype=torch.float64)
    _, alpha, info = draw(scene, Ks, width=40, height=40, tile_size=1)
    assert int(info["radii"]) == 16
    # Variance 25.3: alpha is still above 1/255 at 16.5 pixels from the centre, in columns and rows 3 and 36.
    assert math.exp(-0.5 * (16.5**2 + 0.5**2) / 25.3) > 1 / 255
    drawn = (alpha[0, ..., 0] > 0).nonzero()
    assert drawn.min(0).values.tolist() == [4, 4]
    assert drawn.max(0).values.tolist() == [35, 35]
    _, alpha, _ = draw(scene, Ks, width=40, height=40, tile_size=16)
    assert int((alpha[0, 20, :, 0] > 0).sum()) == 34


def test_planes_and_radius_clip_leave_gaussians_out():
    scene, Ks = make_scene(43, n=40)
    radii, depths = (draw(scene, Ks)[2][k] for k in ("radii", "depths"))
    kept = (radii > 5) & (depths >= 1.0) & (depths <= 2.5)
    assert 0 < int(kept.sum()) < int((radii > 0).sum())
    render, _, info = draw(scene, Ks, near_plane=1.0, far_plane=2.5, radius_clip=5.0)
    assert torch.equal(info["radii"] > 0, kept)
    chosen = {k: v if k == "viewmats" else v[kept[0]] for k, v in scene.items()}
    assert_same(draw(chosen, Ks)[0], render, 1e-12)


def test_covariances_replace_rotations_and_scales():
    scene, Ks = make_scene(44)
    M = gsplat.cuda._torch_impl._quat_scale_to_matrix(scene["quats"], scene["scales"])
    other = {**scene, "quats": None, "scales": None}
    assert_same(draw(other, Ks, covars=M @ M.mT)[0], draw(scene, Ks)[0], 1e-12)


def test_nothing_is_kept_for_a_backward_pass_under_no_grad():
    scene, Ks = make_scene(45)
    with torch.no_grad():
        render, alpha, info = draw(scene, Ks)
    assert not any(t.requires_grad for t in (render, alpha, info["means2d"]))


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ({"packed": True}, "packed=False"),
        ({"sparse_grad": True}, "sparse_grad=False"),
        ({"distributed": True}, "distributed=False"),
        ({"camera_model": "fisheye"}, "pinhole"),
        ({"tile_size": 0}, "16"),
        ({"sh_degree": 0}, "bases, 3"),
        ({"colors": torch.zeros(3, 3, dtype=torch.float64)}, "channels"),
        ({"sh_degree": 3, "colors": torch.zeros(14, 9, 3, dtype=torch.float64)}, "16 spherical harmonics"),
        ({"scales": None}, "scales"),
    ],
)
def test_what_the_cpu_cannot_do_is_refused_with_the_fix(option, fix):
    scene, Ks = make_scene(47)
    arguments = {**scene, "Ks": Ks, "width": WIDTH, "height": HEIGHT, "packed": False} | option
    with pytest.raises(ValueError, match=fix) as error:
        rasterization(**arguments)
    assert "\n" not in str(error.value)


def test_the_signature_is_that_of_gsplat():
    ours, theirs = (inspect.signature(f).parameters for f in (rasterization, gsplat.rasterization))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_importing_and_drawing_on_a_cpu_never_touch_gsplats_extension():
    code = (
        "import sys, torch\n"
        "from pds_nerfstudio.scenes.rasterize import rasterization\n"
        "eye = torch.eye(4)[None]\n"
        "one = torch.ones(1, 3)\n"
        "rasterization(one, torch.ones(1, 4), one, one[:, 0], one, eye, eye[:, :3, :3], 4, 4, packed=False)\n"
        "assert 'gsplat.cuda._backend' not in sys.modules and 'gsplat.csrc' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("absgrad", [False, True])
def test_gsplats_default_strategy_duplicates_splits_and_prunes(absgrad):
    torch.manual_seed(0)
    n = 60
    scene, Ks = make_scene(50, n=n, dtype=torch.float32)
    params = torch.nn.ParameterDict(
        {
            "means": scene["means"].detach(),
            "quats": scene["quats"].detach(),
            "scales": torch.cat([torch.full((n // 2, 3), -6.0), torch.full((n // 2, 3), -1.5)]),
            "opacities": torch.cat([torch.full((n - 4,), 1.0), torch.full((4,), -9.0)]),
            "colors": scene["colors"].detach(),
        }
    )
    optimizers = {k: torch.optim.Adam([v], lr=1e-3) for k, v in params.items()}
    strategy = DefaultStrategy(refine_start_iter=2, refine_every=4, grow_grad2d=1e-6, absgrad=absgrad)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    sizes = []
    for step in range(1, 9):
        render, _, info = rasterization(
            params["means"],
            params["quats"],
            params["scales"].exp(),
            params["opacities"].sigmoid(),
            params["colors"],
            scene["viewmats"].detach(),
            Ks,
            WIDTH,
            HEIGHT,
            packed=False,
            absgrad=absgrad,
        )
        strategy.step_pre_backward(params, optimizers, state, step, info)
        (render - 0.5).square().sum().backward()
        strategy.step_post_backward(params, optimizers, state, step, info)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        sizes.append(len(params["means"]))
    assert sizes[2] == n
    assert sizes[3] > n
    assert sizes[7] > sizes[3]
    assert float(params["opacities"].detach().min()) > -5
    assert all(len(p) == sizes[-1] and bool(torch.isfinite(p).all()) for p in params.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: gsplat's kernel cannot be compared with")
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
@pytest.mark.parametrize("sh_degree", [None, 3])
def test_the_cpu_equals_gsplats_kernel(rasterize_mode, render_mode, sh_degree):
    scene, Ks = make_scene(
        60, n=400, cameras=2, sh_bases=None if sh_degree is None else 16, dtype=torch.float32, size=(0.01, 0.2)
    )
    options = {
        "rasterize_mode": rasterize_mode,
        "render_mode": render_mode,
        "sh_degree": sh_degree,
        "absgrad": True,
        "backgrounds": torch.rand(2, 3),
    }
    on_gpu = {k: v.detach().cuda().requires_grad_() for k, v in scene.items()}
    render, alpha, info = draw(scene, Ks, width=70, height=50, **options)
    options["backgrounds"] = options["backgrounds"].cuda()
    expected, expected_alpha, expected_info = draw(on_gpu, Ks.cuda(), width=70, height=50, **options)
    # Rounding may move a radius across an integer, or an alpha across 1/255, in one of the two and not in the other.
    assert float((info["radii"] != expected_info["radii"].cpu()).float().mean()) < 1e-2
    for a, b in ((render, expected.cpu()), (alpha, expected_alpha.cpu())):
        difference = (a - b).abs() / b.abs().clamp_min(1)
        assert float((difference > 1e-4).float().mean()) < 1e-2
        assert float(difference.max()) < 2e-2
    ours = [*gradients(render, alpha, [*scene.values(), info["means2d"]]), info["means2d"].absgrad]
    theirs = gradients(expected, expected_alpha, [*on_gpu.values(), expected_info["means2d"]])
    theirs = [*theirs, expected_info["means2d"].absgrad]
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b.cpu()).norm() / b.norm().cpu()) < 1e-3
