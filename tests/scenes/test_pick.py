"""One click on an object selects it: against toybox's exact masks, and against laws that a selection keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.before_after import load_run
from pds_nerfstudio.scenes import pick
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.lift import Members, members_of_masks, render_values
from pds_nerfstudio.scenes.pick import grow, look, object_at, point_seen, widened
from pds_nerfstudio.scenes.region import Outside
from pds_nerfstudio.scenes.support import supporting_planes
from pds_nerfstudio.scenes.views import eval_views, train_views


@pytest.fixture(scope="module")
def run(toy_splats):
    return load_run(toy_splats)


def mask_of(toy_scene: Path, name: str) -> torch.Tensor:
    image = Image.open(toy_scene / "source/object_masks" / Path(name).name)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)


def a_click(toy_scene: Path, views, view: int) -> tuple[int, float, float]:
    """In the middle of what the object fills in a view."""
    row, column = (mask_of(toy_scene, views.names[view]) > 0.99).nonzero().float().mean(0).tolist()
    return view, column, row


@pytest.mark.parametrize("view", [0, 5])
def test_a_click_selects_the_object_in_views_that_were_not_asked(run, toy_scene, view):
    model, views, held_out = run.model, train_views(run.datamanager), eval_views(run.datamanager)
    members = object_at(model, views, point_seen(model, views, *a_click(toy_scene, views, view)))
    assert isinstance(members, Members)
    both = either = 0
    for i, name in enumerate(held_out.names):
        shown = render_values(model, held_out.camera(i, *held_out.size(i)), members.chosen[:, None].float()) > 0.5
        wanted = mask_of(toy_scene, name) > 0.5
        both += int((shown[..., 0] & wanted).sum())
        either += int((shown[..., 0] | wanted).sum())
    assert both / either >= 0.85


def test_growing_adds_and_shrinking_takes_away(run, toy_scene):
    model, views = run.model, train_views(run.datamanager)
    looks = look(model, views)
    chosen = grow(looks, torch.tensor(point_seen(model, views, *a_click(toy_scene, views, 0))))
    more, less = widened(looks, chosen, 0.3), widened(looks, chosen, -0.3)
    assert bool((more | ~chosen).all())
    assert bool((chosen | ~less).all())
    assert int(more.sum()) > int(chosen.sum()) > int(less.sum()) > 0
    assert torch.equal(widened(looks, chosen, 0.0), chosen)


def test_a_gaussian_belongs_to_what_most_of_its_weight_shows(splats, camera):
    model = splats(200)
    model.begin_edit()
    camera = camera(height=24, width=24)
    left = torch.zeros(24, 24, dtype=torch.bool)
    left[:, :12] = True
    members = members_of_masks(model, [camera], [left], [torch.ones_like(left)])
    for number in range(0, 200, 20):
        alone = torch.zeros(200, 1)
        alone[number] = 1
        weight = render_values(model, camera, alone)[..., 0]
        if weight.sum() > 0.1:
            assert bool(members.chosen[number]) == bool(weight[left].sum() > 0.5 * weight.sum())
    everything = render_values(model, camera, torch.ones(200, 1))[..., 0]
    torch.testing.assert_close(everything, render(model, camera).accumulation[0, 0].detach())


def test_a_region_of_gaussians_contains_their_means_and_what_is_nearest_to_them():
    means = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    region = Members(means, torch.tensor([True, False]))
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0.4, 1, 0], [0.6, 1, 0]])
    assert region.contains(points).tolist() == [True, False, True, False]
    assert Outside(region).contains(points).tolist() == [False, True, False, True]


def test_a_floor_carries_and_the_top_of_a_box_does_not():
    generator = torch.Generator().manual_seed(0)
    floor = torch.rand(3000, 3, generator=generator) * torch.tensor([2.0, 2, 0]) - torch.tensor([1.0, 1, 0])
    top = torch.rand(3000, 3, generator=generator) * torch.tensor([0.8, 0.8, 0]) + torch.tensor([-0.4, -0.4, 0.5])
    cameras = torch.tensor([[3.0, 0, 2], [-3.0, 0, 2], [0, 3.0, 2]])
    planes = supporting_planes(torch.cat([floor, top]), cameras, torch.tensor([0.0, 0, 0.5]), 0.02)
    assert len(planes) == 1
    torch.testing.assert_close(planes[0].normal, torch.tensor([0.0, 0, 1]), atol=1e-3, rtol=0)
    assert abs(planes[0].offset) < 1e-3


@pytest.mark.parametrize(
    ("click", "words"),
    [((12, 5.0, 5.0), "no training view"), ((0, 32.0, 5.0), "outside"), ((0, 0.5, 0.5), "shows nothing")],
)
def test_a_click_that_meets_nothing_is_refused(run, click, words):
    with pytest.raises(UserError, match=words):
        point_seen(run.model, train_views(run.datamanager), *click)


def test_the_links_of_a_surface_do_not_grow_with_the_square_of_the_views_that_show_it(monkeypatch):
    """Two patches of one plane, red and blue, that touch: seen by 24 views, the click selects the red one alone."""
    linked, query_pairs = [], pick.KDTree.query_pairs

    class Counted(pick.KDTree):
        def query_pairs(self, *arguments, **settings):
            pairs = query_pairs(self, *arguments, **settings)
            linked.append(len(pairs))
            return pairs

    monkeypatch.setattr(pick, "KDTree", Counted)
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(torch.arange(40.0) - 19.5, torch.arange(20.0) - 9.5, torch.zeros(1))
    for views in (1, 24):
        points = grid.repeat(views, 1)
        points = points + 0.4 * (torch.rand(points.shape, generator=generator) - 0.5) * torch.tensor([1.0, 1.0, 0.0])
        red = points[:, 0] < 0
        colours = torch.where(red[:, None], torch.tensor([0.85, 0.15, 0.15]), torch.tensor([0.15, 0.15, 0.85]))
        start = int((points - torch.tensor([-10.0, 0.0, 0.0])).norm(dim=-1).argmin())
        chosen = pick._object(points, colours, start, [], link=2.5, reach=18.0)
        assert torch.equal(chosen, red)
    assert linked[1] < 24 * linked[0]
