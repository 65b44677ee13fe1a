"""Splats on a CPU: built from seed points, trainable after loading, densified in edit steps."""

import copy

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.models.splatfacto import SH2RGB, SplatfactoModel

from pds_nerfstudio.scenes import splatfacto
from pds_nerfstudio.scenes.families import render

GROUPS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")


def optimizers(model) -> Optimizers:
    return Optimizers(
        {name: {"optimizer": AdamOptimizerConfig(lr=0.01), "scheduler": None} for name in GROUPS},
        model.get_param_groups(),
    )


def train_step(model, optimizers, camera, step: int) -> None:
    model.step_cb(optimizers, step)
    optimizers.zero_grad_all()
    (render(model, camera).image - 0.5).square().sum().backward()
    optimizers.optimizer_step_all()
    model.step_post_backward(step)


def test_seed_points_give_the_gaussians_their_places_and_colours(splats):
    model = splats(30)
    torch.manual_seed(0)
    points, colours = torch.randn(30, 3) * 0.3, torch.randint(0, 256, (30, 3), dtype=torch.uint8)
    torch.testing.assert_close(model.means.data, points)
    torch.testing.assert_close(SH2RGB(model.features_dc.data), colours / 255)
    assert isinstance(model, SplatfactoModel)
    assert model.seed_points[1].shape == (30, 3)


def test_seed_points_without_colours_and_random_places_are_possible(splats):
    assert splats(random_init=True, num_random=40).num_points == 40
    assert splats(sh_degree=0).features_rest.shape[1] == 0


@pytest.mark.parametrize("used_before", [False, True])
def test_five_steps_move_a_scene_that_was_loaded_after_its_optimisers_were_built(splats, camera, used_before):
    state = splats(90, seed=1).state_dict()
    model = splats(60).train()
    built = optimizers(model)
    if used_before:
        model.step_cb(built, 0)
        render(model, camera(0)).image.sum().backward()
    model.load_state_dict(state)
    loaded = {name: parameter.detach().clone() for name, parameter in model.gauss_params.items()}
    assert all(torch.equal(loaded[name], state[f"gauss_params.{name}"]) for name in GROUPS)
    model.begin_edit()
    for step in range(5):
        train_step(model, built, camera(0), step)
    for name in ("means", "scales", "features_dc", "opacities"):
        assert (model.gauss_params[name] - loaded[name]).abs().max() > 0.005, name


def test_a_load_that_fails_strictly_can_be_repeated_without_losing_the_optimisers(splats):
    state = splats(90, seed=1).state_dict()
    model = splats(60)
    built = optimizers(model)
    with pytest.raises(RuntimeError, match="lpips"):
        model.load_state_dict(state | {"lpips.net.weight": torch.zeros(1)}, strict=True)
    model.load_state_dict(state, strict=False)
    for name in GROUPS:
        assert built.optimizers[name].param_groups[0]["params"][0] is model.gauss_params[name]


def test_moments_saved_with_a_scene_can_be_loaded_with_it(splats, camera):
    first = splats(60).train()
    built = optimizers(first)
    for step in range(3):
        train_step(first, built, camera(0), step)
    second = splats(10).train()
    again = optimizers(second)
    second.load_state_dict(first.state_dict())
    again.load_optimizers(copy.deepcopy({name: optimizer.state_dict() for name, optimizer in built.optimizers.items()}))
    for model, which in ((first, built), (second, again)):
        train_step(model, which, camera(0), 3)
    for name in GROUPS:
        torch.testing.assert_close(second.gauss_params[name], first.gauss_params[name])


def test_reconstruction_trains_and_densifies_without_cuda(splats, camera):
    model = splats(60, warmup_length=1, refine_every=3, densify_grad_thresh=1e-9, num_downscales=1).train()
    model.strategy.pause_refine_after_reset = 0
    built = optimizers(model)
    target = {"image": torch.rand(14, 12, 3)}
    for step in range(8):
        model.step_cb(built, step)
        built.zero_grad_all()
        view = camera(0, 14, 12)
        outputs = model(view)
        assert (int(view.height), int(view.width)) == (14, 12)
        sum(model.get_loss_dict(outputs, target).values()).backward()
        built.optimizer_step_all()
        model.step_post_backward(step)
    assert model.num_points > 60


def test_an_edit_begins_with_a_finished_scene_and_keeps_its_gaussians(splats, camera):
    state = splats(60, seed=1).state_dict()
    model = splats(60).train()
    built = optimizers(model)
    model.load_state_dict(state)
    with torch.no_grad():
        shown = render(model.eval(), camera(0)).image
        model.train().begin_edit(first_step=100)
        model.step_cb(built, 100)
        torch.testing.assert_close(render(model, camera(0)).image, shown)
    opacity = model.opacities.detach().clone()
    for group in built.optimizers.values():
        group.param_groups[0]["lr"] = 0.0
    for step in range(100, 104):
        train_step(model, built, camera(0), step)
    assert torch.equal(model.opacities, opacity)
    assert model.num_points == 60


def test_densification_counts_edit_steps(splats, camera):
    model = splats(60, densify_grad_thresh=1e-9).train()
    model.strategy.pause_refine_after_reset = 0
    built = optimizers(model)
    model.load_state_dict(splats(60, seed=1).state_dict())
    model.begin_edit(first_step=30_000, refine_start=2, refine_stop=7, refine_every=3)
    numbers = []
    for step in range(30_000, 30_009):
        train_step(model, built, camera(0), step)
        numbers.append(model.num_points)
    changed = [i + 1 for i in range(9) if numbers[i] != ([60, *numbers])[i]]
    assert changed == [3, 6]
    assert built.optimizers["means"].param_groups[0]["params"][0] is model.gauss_params["means"]


def test_outputs_do_not_change_the_camera(splats, camera):
    model = splats(num_downscales=2).train()
    model.step_cb(optimizers(model), 0)
    view = camera(0, 27, 22)
    model(view)
    assert (int(view.height), int(view.width)) == (27, 22)


@pytest.mark.gpu
def test_a_scene_on_cuda_is_the_scene_on_a_cpu(splats, camera):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = splats().eval()
    with torch.no_grad():
        here = render(model, camera(0, 32, 32)).image
        there = render(model.to("cuda"), camera(0, 32, 32)).image
    torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=0)


def test_a_share_of_the_gaussians_grows_whatever_the_scale_of_the_loss(splats):
    counts = []
    for scale in (1.0, 1e6):
        model = splats(number=200)
        model.begin_edit(refine_start=0, refine_stop=10, refine_every=4, grow_share=0.25)
        model.strategy_state["grad2d"] = scale * torch.arange(1.0, 201.0)
        model.strategy_state["count"] = torch.ones(200)
        gradient = model._gradient_of_share(0.25)
        counts.append(int((model.strategy_state["grad2d"] > gradient).sum()))
    assert counts == [50, 50]


def densifying(splats):
    """A model and its optimisers as densification begins, its gradients not yet heard of."""
    model = splats(60).train()
    built = optimizers(model)
    model.begin_edit(refine_start=50, refine_stop=100, refine_every=10)
    model.step_cb(built, 0)
    return model, built


@pytest.mark.parametrize("reached", [False, True])
def test_a_step_without_a_finite_gradient_is_none_to_densification(splats, camera, reached):
    model, built = densifying(splats)
    train_step(model, built, camera(0), 0)
    before = {name: model.strategy_state[name].clone() for name in ("grad2d", "count")}
    model.step_cb(built, 1)
    loss = render(model, camera(0)).image.sum() * float("nan")
    if reached:
        loss.backward()
    model.step_post_backward(1)
    assert all(torch.equal(model.strategy_state[name], value) for name, value in before.items())
    built.zero_grad_all()
    train_step(model, built, camera(0), 2)
    assert model.strategy_state["count"].sum() > before["count"].sum()
    assert model.strategy_state["grad2d"].isfinite().all()


def test_a_skipped_step_neither_clones_nor_prunes_where_a_refinement_is_due(splats, camera):
    model = splats(60).train()
    model.gauss_params["opacities"].data[::5] = -8.0  # to be pruned
    built = optimizers(model)
    model.begin_edit(refine_start=1, refine_stop=100, refine_every=3, grow_share=0.2)
    for step in range(2):
        train_step(model, built, camera(0), step)
    model.step_cb(built, 2)
    render(model, camera(0))
    model.step_post_backward(2)
    assert model.num_points == 60
    for step in range(3, 6):
        train_step(model, built, camera(0), step)
    assert model.num_points != 60


def test_densification_hears_every_view_of_a_step(splats, camera):
    views = [camera(0), camera(1, 14, 9), camera(2)]
    sums = {"grad2d": 0.0, "count": 0.0}
    for view in views:
        model, _ = densifying(splats)
        render(model, view).image.square().sum().backward()
        model.step_post_backward(0)
        sums = {name: total + model.strategy_state[name] for name, total in sums.items()}
    model, _ = densifying(splats)
    sum(render(model, view).image.square().sum() for view in views).backward()
    model.step_post_backward(0)
    for name, total in sums.items():
        torch.testing.assert_close(model.strategy_state[name], total)


def test_what_a_probe_renders_is_neither_kept_nor_heard(splats, camera):
    model, built = densifying(splats)
    for _ in range(3):  # steps without the trainer's callbacks
        render(model, camera(0)).image.sum().backward()
        assert len(model.rendered) == 1
    train_step(model, built, camera(0), 0)
    assert model.strategy_state["count"].max() == 1


def test_intrinsics_are_nerfstudios():
    camera = Cameras(torch.eye(4)[None, :3], 30.0, 40.0, 5.5, 6.5, 11, 13)
    assert torch.equal(splatfacto._intrinsics(camera), camera.get_intrinsics_matrices())
