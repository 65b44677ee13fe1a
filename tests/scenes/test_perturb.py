"""Perturbation of real (tiny) scenes: its ends, what it leaves alone, and where a draw comes from."""

import torch

from pds_nerfstudio.scenes.hull import Hull
from pds_nerfstudio.scenes.perturb import fresh_splats, nerf_parameters, perturb_nerf, perturb_splats, redraw_tcnn


def tensors(model) -> dict[str, torch.Tensor]:
    """Parameters and buffers; nerfacto's state dict has some of them twice."""
    return {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}


def changed(before: dict[str, torch.Tensor], model) -> set[str]:
    return {name for name, value in tensors(model).items() if not torch.equal(value, before[name])}


def another(build):
    """The same model with every parameter drawn anew."""
    model = build()
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def test_eta_zero_leaves_every_tensor_of_a_nerf_as_it_was_bit_for_bit(nerfacto):
    model = nerfacto()
    before = tensors(model)
    perturb_nerf(model, another(nerfacto), 0.0)
    assert changed(before, model) == set()


def test_eta_one_makes_a_nerf_the_fresh_draw_except_for_what_describes_the_photographs(nerfacto):
    model, fresh = nerfacto(), another(nerfacto)
    before = tensors(model)
    perturb_nerf(model, fresh, 1.0)
    drawn = dict(fresh.named_parameters())
    perturbed = nerf_parameters(model)
    assert all(torch.equal(parameter, drawn[name]) for name, parameter in perturbed.items())
    assert changed(before, model) == set(perturbed)
    kept = {name for name, _ in model.named_parameters()} - set(perturbed)
    assert any("camera_optimizer" in name for name in kept)
    assert any("embedding_appearance" in name for name in kept)
    for part in ("field.mlp_base", "field.mlp_head", "proposal_networks.0", "proposal_networks.1"):
        assert any(name.startswith(part) for name in perturbed), part


def test_in_between_a_nerf_is_the_weighted_mean(nerfacto):
    model, source, fresh = nerfacto(), nerfacto(), another(nerfacto)
    perturb_nerf(model, fresh, 0.25)
    drawn, origin = dict(fresh.named_parameters()), dict(source.named_parameters())
    for name, parameter in nerf_parameters(model).items():
        torch.testing.assert_close(parameter, 0.75 * origin[name] + 0.25 * drawn[name])


class FakeTcnn(torch.nn.Module):
    """tiny-cuda-nn's interface: native parameters that are a function of a seed alone."""

    class Native:
        @staticmethod
        def initial_params(seed: int) -> torch.Tensor:
            return torch.full((4,), float(seed))

    def __init__(self):
        super().__init__()
        self.native_tcnn_module = self.Native()
        self.params = torch.nn.Parameter(torch.full((4,), 1337.0))


def test_tiny_cuda_nn_is_drawn_anew_each_module_on_its_own():
    model = torch.nn.Sequential(FakeTcnn(), torch.nn.Linear(2, 2), FakeTcnn())
    linear = model[1].weight.detach().clone()
    redraw_tcnn(model, 5)
    assert model[0].params.tolist() == [5.0] * 4
    assert model[2].params.tolist() == [6.0] * 4
    assert torch.equal(model[1].weight, linear)


ALL = ("means", "scales", "opacities", "features_dc")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_eta_zero_leaves_every_tensor_of_splats_as_it_was_bit_for_bit(splats):
    model = splats()
    before = tensors(model)
    perturb_splats(model, dict.fromkeys(ALL, 0.0), generator())
    assert changed(before, model) == set()


def test_eta_one_makes_splats_the_fresh_draw_with_unit_quaternions(splats):
    model = splats()
    model.gauss_params["quats"].data *= 3
    model.gauss_params["opacities"].data += 1
    before, fresh = tensors(model), fresh_splats(model.means, model.config.sh_degree, generator())
    perturb_splats(model, dict.fromkeys(ALL, 1.0), generator())
    for name in ALL:
        assert torch.equal(model.gauss_params[name].data, fresh[name]), name
    torch.testing.assert_close(model.quats.norm(dim=-1), torch.ones(len(model.means)))
    assert changed(before, model) == {f"gauss_params.{name}" for name in (*ALL, "quats")}


def test_each_group_of_splats_has_its_own_eta(splats):
    model = splats()
    before, fresh = tensors(model), fresh_splats(model.means, model.config.sh_degree, generator())
    perturb_splats(model, {"means": 0.5, "scales": 0.25, "opacities": 0.0, "features_dc": 0.0}, generator())
    for name, eta in (("means", 0.5), ("scales", 0.25)):
        expected = (1 - eta) * before[f"gauss_params.{name}"] + eta * fresh[name]
        torch.testing.assert_close(model.gauss_params[name].data, expected)
    assert not {"gauss_params.opacities", "gauss_params.features_dc"} & changed(before, model)


def test_two_hundred_perturbed_splats_have_the_interpolated_mean(splats):
    model = splats()
    source, eta, total = model.means.detach().clone(), 0.6, torch.zeros_like(model.means)
    for seed in range(200):
        model.means.data.copy_(source)
        perturb_splats(model, {"means": eta}, generator(seed))
        total += model.means.detach()
    low, high = (torch.quantile(source.double(), q, dim=0).float() for q in (0.01, 0.99))
    expected = (1 - eta) * source + eta * (low + high) / 2
    standard_error = eta * (high - low) / (12 * 200) ** 0.5
    assert ((total / 200 - expected).abs() < 5 * standard_error).all()


def test_fresh_splats_fill_the_region_whatever_a_stray_does_and_space_themselves_by_their_neighbours():
    means = torch.rand(2000, 3, generator=generator())
    means[0] = 1000.0
    fresh = fresh_splats(means, 0, generator())
    assert fresh["means"].min() > -0.1
    assert fresh["means"].max() < 1.1
    spacing = fresh["scales"].exp().median()
    assert 0.5 * 2000 ** (-1 / 3) < spacing < 1.5 * 2000 ** (-1 / 3)
    torch.testing.assert_close(fresh["opacities"].sigmoid(), torch.full((2000, 1), 0.1))


def test_a_seed_gives_the_same_draw_and_another_seed_another(splats):
    draws = [fresh_splats(splats().means, 3, generator(seed))["means"] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_very_few_gaussians_can_be_perturbed():
    for count in (2, 3):
        assert fresh_splats(torch.rand(count, 3), 0, generator())["scales"].isfinite().all()


class Half(Hull):
    """Everything with x > 0."""

    def __init__(self):
        super().__init__([], [], [])

    def contains(self, points):
        return points[:, 0] > 0

    def draw(self, count, around, generator):
        return torch.rand(count, 3, generator=generator) + torch.tensor([5.0, 0.0, 0.0])


def test_with_a_hull_only_its_gaussians_move_and_towards_it(splats):
    model = splats()
    before = tensors(model)
    inside = model.means.detach()[:, 0] > 0
    assert perturb_splats(model, {"means": 0.5, "scales": 0.5}, generator(), Half()) == int(inside.sum())
    for name in ("means", "scales", "quats"):
        value, old = model.gauss_params[name].data, before[f"gauss_params.{name}"]
        assert torch.equal(value[~inside], old[~inside]), name
    assert (model.means[inside, 0] > 2.4).all()


def test_with_a_hull_only_the_hash_entries_that_it_reads_move(nerfacto):
    model, source, fresh = nerfacto(), nerfacto(), another(nerfacto)
    before = tensors(model)
    perturb_nerf(model, fresh, 0.5, Half())
    names = changed(before, model)
    assert names
    assert all("hash_table" in name for name in names)
    left = torch.rand(500, 3, generator=generator()) * torch.tensor([-0.4, 0.8, 0.8]) - torch.tensor([0.5, 0.4, 0.4])
    right = left * torch.tensor([-1.0, 1.0, 1.0])
    with torch.no_grad():
        moved = [
            (model.field.density_fn(x[:, None]) - source.field.density_fn(x[:, None])).abs().mean()
            for x in (left, right)
        ]
    assert moved[1] > 0
    # Fine levels share entries between distant cells (that is what a hash table is), the more the smaller it is.
    assert moved[0] < moved[1]
