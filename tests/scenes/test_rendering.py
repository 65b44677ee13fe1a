"""`render` gives what the viewer shows, with gradients that do not depend on how memory was saved."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras

from pds_nerfstudio.evaluation import renders
from pds_nerfstudio.scenes.families import render, scene_of
from pds_nerfstudio.scenes.region import Ball
from pds_nerfstudio.scenes.views import Views

HASH_TABLE = "field.mlp_base.model.0.hash_table"
POSES_FIXED = {"camera_optimizer": CameraOptimizerConfig(mode="off")}


def gradients(model, rendering) -> dict[str, torch.Tensor]:
    """Gradient of one number that depends on everything rendered, each pixel with its own weight."""
    model.zero_grad()
    weight = torch.linspace(-1, 1, rendering.image.numel()).view_as(rendering.image)
    total = (weight * rendering.image).sum() + rendering.depth.mean() + rendering.accumulation.square().sum()
    sum(rendering.regulariser.values(), total).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def fields(rendering) -> list[torch.Tensor]:
    return [rendering.image, rendering.depth, rendering.accumulation, *rendering.regulariser.values()]


@pytest.mark.parametrize(
    "settings", [{}, {"use_appearance_embedding": False}, {"predict_normals": True}, {"implementation": "tcnn"}]
)
def test_recomputing_changes_neither_image_nor_gradients(settings, nerfacto, camera, native):
    results = []
    for recompute in (False, True):
        model = nerfacto(**settings).train()
        torch.manual_seed(1)
        rendering = render(model, camera(2), recompute=recompute, rays_per_chunk=10, regularise=True)
        torch.rand(5)  # the jitter that is drawn again in backward must not depend on what was drawn since
        results.append((fields(rendering), gradients(model, rendering)))
    (plain, plain_gradients), (recomputed, recomputed_gradients) = results
    for expected, actual in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(actual, expected, atol=0, rtol=0)
    assert plain_gradients.keys() == recomputed_gradients.keys()
    for name, expected in plain_gradients.items():
        torch.testing.assert_close(recomputed_gradients[name], expected, atol=1e-6, rtol=1e-5)
    assert plain_gradients[HASH_TABLE if HASH_TABLE in plain_gradients else "field.mlp_base.model.params"].any()


def test_the_size_of_chunks_changes_neither_image_nor_gradients(nerfacto, camera):
    results = []
    for rays_per_chunk in (1000, 8):
        model = nerfacto().eval()
        rendering = render(model, camera(1), rays_per_chunk=rays_per_chunk, regularise=True)
        results.append((fields(rendering), gradients(model, rendering)))
    (whole, whole_gradients), (pieces, pieces_gradients) = results
    for expected, actual in zip(whole, pieces, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    for name, expected in whole_gradients.items():
        torch.testing.assert_close(pieces_gradients[name], expected, atol=2e-5, rtol=1e-3)


def test_over_all_draws_the_gradient_of_a_share_of_the_chunks_is_that_of_all(nerfacto, camera, monkeypatch):
    settings = {"rays_per_chunk": 9, "regularise": True}  # four chunks of 35 rays
    model = nerfacto().eval()
    whole = render(model, camera(1), **settings)
    expected = gradients(model, whole)
    drawn = []
    for first in range(4):
        order = torch.tensor([first, *(i for i in range(4) if i != first)])
        monkeypatch.setattr(torch, "randperm", lambda count, order=order: order)
        part = render(model, camera(1), backward_share=0.25, **settings)
        for value, of_part in zip(fields(whole), fields(part), strict=True):
            torch.testing.assert_close(of_part, value)
        drawn.append(gradients(model, part))
    for name, gradient in expected.items():
        average = sum(of_draw[name] for of_draw in drawn if name in of_draw) / 4
        torch.testing.assert_close(average, gradient, atol=2e-5, rtol=1e-3)
    assert not torch.equal(drawn[0][HASH_TABLE], drawn[1][HASH_TABLE])


def test_every_chunk_lies_all_over_the_view(nerfacto, camera):
    model, seen = nerfacto().eval(), []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].directions))
    render(model, camera(1), rays_per_chunk=9)
    whole = torch.cat(seen)
    spread = whole.amax(0) - whole.amin(0)
    assert [len(chunk) for chunk in seen] == [9, 9, 9, 8]
    for chunk in seen:
        assert ((chunk.amax(0) - chunk.amin(0)) > 0.6 * spread).all()


def test_a_share_of_no_chunk_is_refused(nerfacto, camera):
    with pytest.raises(ValueError, match="backward_share"):
        render(nerfacto(), camera(0), backward_share=0.0)


def test_every_chunk_trains_the_proposals(nerfacto, camera):
    model = nerfacto().train()
    model.proposal_sampler._step, model.proposal_sampler._steps_since_update = 10_000, 0
    rendering = render(model, camera(0), rays_per_chunk=9, regularise=True)
    parts = [render(model, camera(0), rays_per_chunk=1000, regularise=True)]
    for result in (rendering, *parts):
        found = gradients(model, result)
        assert all(found[name].abs().max() > 0 for name in found if name.startswith("proposal_networks"))
        assert any(name.startswith("proposal_networks") for name in found)
    assert model.proposal_sampler._steps_since_update == 0
    assert model.proposal_sampler._step == 10_000


def test_a_rendering_is_what_nerfacto_shows_in_evaluation(nerfacto, camera):
    model = nerfacto(**POSES_FIXED).train()
    model.proposal_sampler.set_anneal(0.1)
    with torch.no_grad():
        rendering = render(model, camera(3), rays_per_chunk=10)
    model.eval()
    model.proposal_sampler.set_anneal(1.0)
    shown = model.get_outputs_for_camera(camera())
    torch.testing.assert_close(rendering.image[0].movedim(0, -1), shown["rgb"])
    torch.testing.assert_close(rendering.accumulation[0].movedim(0, -1), shown["accumulation"])


@pytest.mark.parametrize("training", [True, False])
def test_rendering_leaves_the_modes_of_every_module_as_they_were(training, nerfacto, camera):
    model = nerfacto().train(training)
    model.field.train(not training)
    before = {name: module.training for name, module in model.named_modules()}
    rendering = render(model, camera(0), rays_per_chunk=10, regularise=True)
    gradients(model, rendering)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_only_the_rendered_views_pose_gets_a_gradient(nerfacto, camera):
    model = nerfacto().train()
    found = gradients(model, render(model, camera(2)))["camera_optimizer.pose_adjustment"]
    assert found[2].abs().max() > 0
    assert not found[[0, 1, 3]].any()


@pytest.mark.parametrize("family", ["nerfacto", "splats"])
def test_the_pose_correction_is_that_of_the_view_and_none_without_an_index(family, request, camera):
    pose = CameraOptimizerConfig(mode="SO3xR3")
    build = request.getfixturevalue(family)
    model = build(camera_optimizer=pose).eval()
    torch.nn.init.normal_(model.camera_optimizer.pose_adjustment, std=0.05)
    with torch.no_grad():
        corrected = camera()
        corrected.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera(2))
        by_index, by_hand = render(model, camera(2)).image, render(model, corrected).image
        others = [render(model, camera(index)).image for index in (None, 0)]
    error = (by_index - by_hand).abs().max()
    assert error < 1e-5
    assert all((by_index - other).abs().max() > 20 * error + 1e-5 for other in others)


@pytest.mark.parametrize("family", ["nerfacto", "splats"])
@pytest.mark.parametrize("size", [(2, 1), (3, 11), (24, 16)])
def test_any_size_can_be_rendered_and_stays_in_range(family, size, request, camera):
    model = request.getfixturevalue(family)().train()
    rendering = render(model, camera(0, *size))
    assert rendering.image.shape == (1, 3, *size)
    assert rendering.depth.shape == rendering.accumulation.shape == (1, 1, *size)
    assert rendering.image.min() >= 0
    assert rendering.image.max() <= 1 + 1e-6
    assert rendering.image.requires_grad


@pytest.mark.parametrize("family", ["nerfacto", "splats"])
def test_nothing_is_kept_under_no_grad(family, request, camera):
    model = request.getfixturevalue(family)().train()
    with torch.no_grad():
        first, second = (render(model, camera(0), rays_per_chunk=10) for _ in range(2))
    assert not first.image.requires_grad
    assert torch.equal(first.image, second.image)


def test_splats_are_rendered_as_the_viewer_shows_them(splats, camera):
    model = splats().train()
    model.step = 0  # at step 0 splatfacto itself would train at a quarter of the size on a random background
    with torch.no_grad():
        rendering = render(model, camera(0, 21, 15))
    model.eval()
    shown = model.get_outputs_for_camera(camera(height=21, width=15))
    torch.testing.assert_close(rendering.image[0].movedim(0, -1), shown["rgb"])
    torch.testing.assert_close(rendering.depth[0].movedim(0, -1), shown["depth"])


def test_a_crop_left_by_the_viewer_does_not_crop_the_edit(splats, camera):
    model = splats()
    expected = render(model, camera(0)).image
    model.crop_box = object()
    assert torch.equal(render(model, camera(0)).image, expected)
    assert model.crop_box is not None


@pytest.mark.parametrize("family", ["nerfacto", "splats"])
def test_gradients_are_those_of_finite_differences(family, request, camera):
    model = request.getfixturevalue(family)(**(POSES_FIXED if family == "nerfacto" else {})).eval()
    name, parameter = next(
        (name, p) for name, p in model.named_parameters() if name.endswith(("layers.2.bias", "features_dc"))
    )
    view = camera(0)
    weight = torch.linspace(-1, 1, 105).view(1, 3, 7, 5)
    model.zero_grad()
    (weight * render(model, view).image).sum().backward()
    direction = torch.sign(parameter.grad)
    step = 1e-2
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.add_(sign * step * direction)
            values.append((weight * render(model, view).image).sum())
            parameter.sub_(sign * step * direction)
    measured = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(measured, (parameter.grad * direction).sum(), rtol=0.02, atol=1e-4, msg=name)


def test_one_camera_at_a_time(splats, camera):
    both = camera()
    both = type(both)(*(torch.cat([getattr(both, n)] * 2) for n in ("camera_to_worlds", "fx", "fy", "cx", "cy")))
    with pytest.raises(ValueError, match="one camera"):
        render(splats(), both)


@pytest.mark.parametrize("family", ["nerfacto", "splats"])
def test_a_part_of_the_scene_is_shown_alone_and_hears_of_every_gradient(family, request, camera):
    """All of it is the whole scene, none of it the plain background, and what lies outside hears nothing."""
    model = request.getfixturevalue(family)().eval()
    everything, nothing = Ball((0.0, 0.0, 0.0), 1e6), Ball((0.0, 0.0, 0.0), 0.0)
    whole, all_of_it = render(model, camera(1)), render(model, camera(1), within=everything)
    torch.testing.assert_close(all_of_it.accumulation, whole.accumulation, atol=1e-6, rtol=0)
    torch.testing.assert_close(all_of_it.depth, whole.depth, atol=1e-4, rtol=1e-4)
    none_of_it = render(model, camera(1), within=nothing)
    assert none_of_it.accumulation.abs().max() < 1e-6
    assert none_of_it.image.flatten(2).std(-1).max() < 1e-6
    torch.testing.assert_close(render(model, camera(1)).image, whole.image, atol=0, rtol=0)  # nothing is left behind


def test_of_splats_only_those_within_hear_a_gradient(splats, camera):
    model = splats().eval()
    region = Ball(tuple(model.means[0].tolist()), float((model.means - model.means[0]).norm(dim=-1).median()))
    inside = region.contains(model.means.detach())
    assert 0 < int(inside.sum()) < len(inside)
    render(model, camera(1), within=region).image.sum().backward()
    heard = model.gauss_params["features_dc"].grad.abs().sum(-1) > 0
    assert heard.any()
    assert not (heard & ~inside).any()


@pytest.mark.parametrize("recompute", [False, True])
def test_of_a_nerf_nothing_outside_the_region_hears_a_gradient(nerfacto, camera, recompute):
    model = nerfacto().train()
    rendering = render(model, camera(2), within=Ball((0.0, 0.0, 0.0), 0.0), recompute=recompute, rays_per_chunk=10)
    (rendering.image.sum() + rendering.accumulation.sum()).backward()
    assert not model.field.mlp_base.model[0].hash_table.grad.any()


def test_a_rendering_is_enlarged_with_its_graph(splats, camera):
    model = splats().eval()
    small = render(model, camera(1))
    height, width = small.image.shape[-2:]
    large = small.enlarged(4 * height, 4 * width)
    assert large.image.shape[-2:] == large.depth.shape[-2:] == large.accumulation.shape[-2:] == (4 * height, 4 * width)
    torch.testing.assert_close(
        F.avg_pool2d(large.image, 4)[..., 1:-1, 1:-1], small.image[..., 1:-1, 1:-1], atol=0.2, rtol=0
    )
    large.image.sum().backward()
    assert model.gauss_params["means"].grad.any()


@pytest.mark.parametrize("colour", ["white", "black", "random"])
def test_the_background_is_what_is_rendered_where_nothing_is(colour, splats, camera):
    model = splats(background_color=colour).train()
    model.gauss_params["opacities"].data.fill_(-20.0)
    shown = render(model, camera(0)).image[0].flatten(1)
    torch.testing.assert_close(shown, scene_of(model).background[:, None].expand_as(shown))


@pytest.mark.parametrize(
    ("colour", "expected"), [("white", 1.0), ("black", 0.0), ("random", 0.0), ("last_sample", 0.0)]
)
def test_transparent_photographs_of_a_nerf_are_put_on_what_it_was_trained_on(colour, expected, nerfacto):
    assert scene_of(nerfacto(background_color=colour)).background.tolist() == [expected] * 3


def test_a_mesh_of_splats_lies_on_their_surface_as_the_corrected_poses_see_it(splats, tmp_path, monkeypatch):
    """A wall at z = 0, from a wide camera whose pose is corrected along the axis it looks along."""
    import trimesh

    steps = torch.linspace(-1.5, 1.5, 61)
    points = torch.cartesian_prod(steps, steps, torch.zeros(1))
    model = splats(len(points), camera_optimizer=CameraOptimizerConfig(mode="SO3xR3")).eval()
    parameters = model.gauss_params
    parameters["means"].data, parameters["opacities"].data = points, torch.full_like(points[:, :1], 8.0)
    parameters["scales"].data = torch.tensor([0.05, 0.05, 0.001]).log().expand(len(points), -1).clone()
    parameters["quats"].data = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), -1).clone()
    model.camera_optimizer.pose_adjustment.data[0, 2] = 0.25
    pose = torch.cat([torch.eye(3), torch.tensor([[0.0], [0.0], [0.75]])], dim=1)
    focal, centre, size = (torch.tensor([[value]]) for value in (32.0, 32.0, 64))
    views = Views(Cameras(pose[None], focal, focal, centre, centre, size, size), lambda _: torch.empty(0), ("a",), True)
    monkeypatch.setattr(renders, "load_run", lambda *_, **__: SimpleNamespace(model=model, datamanager=None))
    monkeypatch.setattr(renders, "train_views", lambda _: views)
    mesh = trimesh.load(renders.export_splat_mesh(Path("run/config.yml"), tmp_path / "mesh.ply"))
    assert mesh.vertices[:, :2].max() > 0.8
    assert abs(mesh.vertices[:, 2]).max() < 0.03


def test_the_box_of_a_mesh_of_splats_holds_all_of_them_in_whatever_order_they_are_stored(monkeypatch):
    """Sorted along x, as spatially compressed files are."""
    means = torch.rand(120_000, 3, generator=torch.Generator().manual_seed(0))
    means = means[means[:, 0].argsort()]
    model = SimpleNamespace(means=means, opacities=torch.full((len(means), 1), 8.0))
    boxes = []

    def made(box, _):
        boxes.append(box)
        raise InterruptedError

    monkeypatch.setattr(renders, "load_run", lambda *_, **__: SimpleNamespace(model=model, datamanager=None))
    monkeypatch.setattr(renders, "train_views", lambda _: [])
    monkeypatch.setattr("nerfstudio.exporter.tsdf_utils.TSDF.from_aabb", made)
    with pytest.raises(InterruptedError):
        renders.export_splat_mesh(Path("run/config.yml"), Path("mesh.ply"))
    low, high = boxes[0]
    assert (low <= 0).all()
    assert (high >= 1).all()
