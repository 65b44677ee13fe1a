"""Which entries of hash tables a region reads, against what the densities in it depend on; both implementations."""

import math

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.scenes.families import scene_of
from pds_nerfstudio.scenes.hash_grid import entries_read, hash_tables
from pds_nerfstudio.scenes.perturb import nerf_parameters, perturb_nerf, redraw_tcnn
from pds_nerfstudio.scenes.region import Box, Common
from pds_nerfstudio.scenes.unit_cube import PARTS, UnitCube, overlaps

NEAR = Box((-0.31, -0.22, -0.43, 0.27, 0.35, 0.11))
FAR = Box((0.41, -0.31, -0.23, 2.7, 0.53, 1.9))
"""Reaches out of [-1, 1]^3, where space is contracted."""


@pytest.fixture(params=["torch", "tcnn"])
def scene(request, nerfacto):
    """A nerfacto whose coarse levels are larger than a region, so that an entry can be told from its neighbours."""
    if request.param == "tcnn":
        request.getfixturevalue("native")
    proposal = {"hidden_dim": 8, "log2_hashmap_size": 12, "num_levels": 2, "max_res": 24, "use_linear": False}

    def build(**changes):
        settings = {"implementation": request.param, "log2_hashmap_size": 13, "max_res": 40, "base_res": 8}
        return nerfacto(**(settings | {"proposal_net_args_list": [proposal, proposal]} | changes)).eval()

    return build


class Points:
    """A box that can only be asked for points."""

    def __init__(self, box: Box):
        self.contains = box.contains


class HalfSpace:
    """A region that goes on for ever, across the scene's axes."""

    def contains(self, points):
        return points @ torch.tensor([1.0, 0.3, -0.2]) > 0.1


def positive(model) -> None:
    """Make every network's weights positive: a density then depends on every entry it reads, whatever a ReLU does."""
    tables = {id(table.parameter): table.begin for table in hash_tables(model)}
    for parameter in nerf_parameters(model).values():
        flat = parameter.data.view(-1)
        flat[: tables.get(id(parameter), len(flat))].abs_().mul_(0.1)
    for table in hash_tables(model):
        table.parameter.data.view(-1)[table.begin :].abs_()


def depended_on(model, points: torch.Tensor) -> dict[str, torch.Tensor]:
    """By parameter, the values of hash tables that the densities at the points depend on."""
    model.requires_grad_(True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tables = hash_tables(model)
    for field in (model.field, *model.proposal_networks):
        field.density_fn(points[:, None]).sum().backward()
    found = {}
    for table in tables:
        grad = table.parameter.grad
        assert grad is not None
        mask = grad.view(-1) != 0
        mask[: table.begin] = False
        found[names[id(table.parameter)]] = mask.view(table.parameter.shape)
    model.zero_grad()
    return found


def points_in(box: Box, count: int) -> torch.Tensor:
    low, high = torch.tensor(box.corners[:3]), torch.tensor(box.corners[3:])
    return low + (high - low) * torch.rand(count, 3, generator=torch.Generator().manual_seed(0))


def evenly_in(model, region, count: int) -> torch.Tensor:
    """Points of the region that are uniform over the part of the unit cube that it fills, not over the scene."""
    unit = torch.rand(1_000_000, 3, generator=torch.Generator().manual_seed(1))
    points = UnitCube(model.field, torch.device("cpu")).scene(unit).float()
    return points[region.contains(points) & points.isfinite().all(-1)][:count]


@pytest.mark.parametrize(("box", "contracted"), [(NEAR, True), (FAR, True), (NEAR, False)])
def test_a_box_reads_the_entries_that_its_densities_depend_on_and_no_other(scene, box, contracted):
    model = scene(disable_scene_contraction=not contracted)
    positive(model)
    read, wanted = entries_read(model, box), depended_on(model, evenly_in(model, box, 40_000))
    assert read.keys() == wanted.keys()
    for name, mask in wanted.items():
        assert 0.01 < mask.float().mean() < 0.9, name
        assert not (mask & ~read[name]).any(), name
        # What is left are cells that the box cuts so little of that no point falls into them.
        assert int((read[name] & ~mask).sum()) <= 0.1 * int(mask.sum()), name


@pytest.mark.parametrize("box", [NEAR, FAR])
def test_a_region_of_points_reads_all_that_the_same_box_reads_and_little_else(scene, box):
    model = scene()
    exact, found = entries_read(model, box), entries_read(model, Points(box))
    for name, mask in exact.items():
        assert not (mask & ~found[name]).any(), name
        assert int((found[name] & ~mask).sum()) <= 0.15 * int(mask.sum()), name


def test_a_half_space_reads_the_entries_that_its_densities_depend_on_and_few_others(scene):
    model, half = scene(log2_hashmap_size=15), HalfSpace()
    positive(model)
    read, wanted = entries_read(model, half), depended_on(model, evenly_in(model, half, 100_000))
    for name, mask in wanted.items():
        assert not (mask & ~read[name]).any(), name
        assert int((read[name] & ~mask).sum()) <= 0.15 * int(mask.sum()), name


def test_a_region_of_points_finds_every_cell_in_which_it_holds_a_cube_of_the_coarse_spacing(scene):
    model = scene()
    corner = torch.tensor([0.3, 0.52, 0.61])
    low, high = 4 * corner - 2, 4 * (corner + 1.001 / PARTS) - 2
    box = Box((*low.tolist(), *high.tolist()))
    read = entries_read(model, Points(box))
    for name, mask in depended_on(model, points_in(box, 2000)).items():
        assert mask.any()
        assert not (mask & ~read[name]).any(), name


@pytest.mark.parametrize("region", [HalfSpace(), Box((0.05, -50.0, -50.0, 50.0, 50.0, 50.0))])
def test_no_more_vertices_are_looked_at_than_a_small_multiple_of_the_table(nerfacto, region, monkeypatch):
    model = nerfacto(num_levels=1, base_res=2048, max_res=2048, log2_hashmap_size=16)
    model.proposal_networks = torch.nn.ModuleList()
    reach_of, asked = UnitCube.reach_of, 0

    def counted(cube, region):
        test = reach_of(cube, region)

        def reaches(low, high):
            nonlocal asked
            asked += len(low)
            return test(low, high)

        return reaches

    monkeypatch.setattr(UnitCube, "reach_of", counted)
    (read,) = entries_read(model, region).values()
    assert read.all()
    assert asked < 64 * 2**16  # of the level's 8.6 thousand million


@pytest.mark.parametrize("box", [NEAR, FAR])
def test_both_implementations_read_the_same_share_of_every_level(nerfacto, native, box):
    settings = {"num_levels": 4, "log2_hashmap_size": 22, "max_res": 128}  # room for all vertices: nothing is shared
    shares = []
    for implementation in ("torch", "tcnn"):
        model = nerfacto(implementation=implementation, **settings)
        table = hash_tables(model)[0]
        name = next(name for name, p in model.named_parameters() if p is table.parameter)
        mask = entries_read(model, box)[name].view(-1)[table.begin :: table.features]
        shares.append([float(mask[x.first : x.first + x.size].sum()) / (x.scale + 1) ** 3 for x in table.levels])
    for level, (one, other) in enumerate(zip(*shares, strict=True)):
        assert one == pytest.approx(other, rel=0.3 / 2**level + 0.02), shares


def test_tables_at_real_sizes_fill_tiny_cuda_nns_vector_to_its_end(scene):
    model = scene(num_levels=16, log2_hashmap_size=15, max_res=2048, base_res=16)
    for table in hash_tables(model):
        last = table.levels[-1]
        assert table.begin + (last.first + last.size) * table.features == table.parameter.numel()
        assert sum(level.size for level in table.levels) == last.first + last.size


def test_of_the_finest_levels_an_eighth_of_the_box_reads_its_share(nerfacto):
    model = nerfacto(num_levels=1, base_res=512, max_res=512, log2_hashmap_size=19)
    table = hash_tables(model)[0]
    read = next(iter(entries_read(model, Box((0.0, 0.0, 0.0, 1.0, 1.0, 1.0))).values()))[:, 0]
    vertices = round(512 / 4 + 1) ** 3
    expected = 1 - math.exp(-vertices / table.levels[0].size)  # of that many draws with replacement
    assert float(read.float().mean()) > expected - 0.05


def test_boxes_overlap_in_contracted_space_where_points_say_so(nerfacto):
    model = nerfacto()
    space, generator = UnitCube(model.field, torch.device("cpu")), torch.Generator().manual_seed(3)
    wrong = found = 0
    for _ in range(8):
        corner = torch.rand(2, 3, generator=generator)
        size = torch.rand(1, generator=generator) ** 2
        ends = (space.scene(0.02 + 0.96 * corner) * size).sort(dim=0).values.float()
        box = Box((*ends[0].tolist(), *ends[1].tolist()))
        low = torch.rand(300, 3, generator=generator, dtype=torch.float64) * 0.95
        high = low + 0.05
        said = overlaps(space, box.corners, low, high)
        unit = low[:, None] + (high - low)[:, None] * torch.rand(300, 1500, 3, generator=generator)
        held = space.contains(box, unit).any(-1)
        assert not (held & ~said).any()
        wrong, found = wrong + int((said & ~held).sum()), found + int(held.sum())
    assert found > 30
    assert wrong < 0.05 * found


@pytest.mark.parametrize("region", [NEAR, Common(NEAR, Box((-0.11, -9.0, -9.0, 9.0, 9.0, 9.0)))])
def test_perturbation_of_a_part_moves_its_entries_and_nothing_else(scene, region):
    model, source, fresh = scene(), scene(), scene()
    redraw_tcnn(fresh, 7)
    for table in hash_tables(fresh):
        table.parameter.data.add_(1)
    moved = perturb_nerf(model, fresh, 0.5, region)
    read, before = entries_read(source, region), dict(source.named_parameters())
    assert moved > 0
    for name, parameter in model.named_parameters():
        expected = read.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter != before[name], expected), name
    assert any(name.startswith("field.") and mask.any() for name, mask in read.items())


def test_a_box_freezes_networks_and_all_other_entries_bit_for_bit(scene):
    model = scene()
    frozen_scene = scene_of(model)
    frozen_scene.freeze_outside(NEAR)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(nerf_parameters(model).values(), lr=0.1)
    optimizer.register_step_pre_hook(lambda optimizer, *_: frozen_scene.mask_gradients(optimizer))
    for _ in range(2):
        for parameter in nerf_parameters(model).values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    read = entries_read(model, NEAR)
    for name, parameter in nerf_parameters(model).items():
        expected = read.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter != before[name], expected), name


def test_a_field_without_a_known_table_is_an_error(scene):
    model = scene()
    model.field.mlp_base = torch.nn.Linear(3, 16)
    with pytest.raises(UserError, match="No hash table was found"):
        scene_of(model).freeze_outside(NEAR)


def test_a_native_vector_of_another_layout_is_an_error(scene):
    model = scene()
    table = hash_tables(model)[0]
    if table.begin == 0:
        pytest.skip("torch's implementation has a parameter of its own for the table")
    table.parameter.data = table.parameter.data[: -table.begin - 1]
    with pytest.raises(UserError, match="does not hold"):
        hash_tables(model)
