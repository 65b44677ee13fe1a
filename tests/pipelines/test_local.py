"""Local edits through `ns-train`: outside the box nothing changes, in parameters or in pictures."""

import pytest
import torch

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.evaluation.trial import load_run
from pds_nerfstudio.pipelines.settings import RegionSettings
from pds_nerfstudio.scenes.families import render
from pds_nerfstudio.scenes.hull import Hull
from pds_nerfstudio.scenes.region import Box
from pds_nerfstudio.scenes.source import find_run, load_source_state
from pds_nerfstudio.scenes.views import eval_views

from .conftest import PROMPTS
from .test_edit import TOYBOX, scene_of

pytestmark = pytest.mark.slow


@pytest.fixture
def upper_half(toy_splats) -> tuple[list[float], torch.Tensor]:
    """A box around the upper half of the toybox splats, and which of them lie in it."""
    means = load_source_state(find_run(toy_splats))["_model.gauss_params.means"]
    low, high = means.amin(0), means.amax(0)
    low[2] = means[:, 2].median()
    inside = (means >= low).all(-1)
    return [*low.tolist(), *high.tolist()], inside


def test_two_hundred_steps_leave_everything_outside_the_box_as_it_was_to_the_bit(ns_train, toy_splats, upper_half):
    box, inside = upper_half
    config = ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 200),
        *("--pipeline.box", *box),
    )
    source, edited = load_source_state(find_run(toy_splats)), scene_of(config)
    names = [name for name in edited if "gauss_params" in name and source[name].numel()]
    assert len(names) >= 5
    for name in names:
        assert torch.equal(edited[name][~inside], source[name][~inside]), name
        assert not torch.equal(edited[name][inside], source[name][inside]), name

    runs = load_run(toy_splats), load_run(config.get_base_dir() / "config.yml")
    views = eval_views(runs[0].datamanager)
    cameras = [views.camera(i, *views.size(i)) for i in range(len(views))]
    with torch.no_grad():
        pictures = [torch.cat([render(run.model, camera).image for camera in cameras]) for run in runs]
        for run, state in zip(runs, (source, edited), strict=True):  # what lies inside, alone
            run.model.load_state_dict(
                {name.removeprefix("_model."): state[name][inside] for name in names}, strict=False
            )
        coverage = [torch.cat([render(run.model, camera).accumulation for camera in cameras]) for run in runs]
    untouched = ((coverage[0] == 0) & (coverage[1] == 0)).expand(-1, 3, -1, -1)
    assert 0.1 < untouched.float().mean() < 0.98
    assert torch.equal(pictures[0][untouched], pictures[1][untouched])
    assert not torch.equal(pictures[0], pictures[1])


def test_new_gaussians_join_what_may_change_once_also_across_a_resume(ns_train, toy_splats):
    above = (-0.1, -0.1, -0.35, 0.1, 0.1, -0.2)
    source = load_source_state(find_run(toy_splats))
    means, count = "_model.gauss_params.means", len(source["_model.gauss_params.means"])
    first = ns_train(
        *("dds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 4),
        *("--pipeline.box", *above, "--pipeline.new-gaussians", 50),
    )
    resumed = ns_train("dds-edit-splat", "--load-dir", first.get_base_dir(), "--max-num-iterations", 8)
    there = load_source_state(find_run(first.get_base_dir()))
    edited = load_source_state(find_run(resumed.get_base_dir()))
    assert len(there[means]) == len(edited[means]) == count + 50
    outside = ~Box(above).contains(source[means])
    assert int(outside.sum()) > 0.9 * count
    assert torch.equal(edited[means][:count][outside], source[means][outside])
    assert not torch.equal(edited[means][count:], there[means][count:])
    assert not bool(edited["_scene.frozen"][count:].any())


def test_a_resumed_and_densified_local_edit_still_holds_the_rest(ns_train, toy_splats, upper_half, capfd):
    box, inside = upper_half
    densify = ("--pipeline.densify-from", 1, "--pipeline.densify-until", 12, "--pipeline.densify-every", 3)
    first = ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--pipeline.refine-steps", 0),
        *("--pipeline.eta", 0.4, "--pipeline.perturb", "everywhere", "--pipeline.box", *box, *densify),
        *("--max-num-iterations", 8),
    )
    resumed = ns_train(
        *("pnr-edit-splat", "--load-dir", first.get_base_dir(), "--max-num-iterations", 14),
    )
    assert f"{int(inside.sum())} of {len(inside)} Gaussians perturbed" in capfd.readouterr().out
    source = load_source_state(find_run(toy_splats))
    edited = load_source_state(find_run(resumed.get_base_dir()))
    held = edited["_scene.frozen"]
    means = "_model.gauss_params.means"
    assert len(held) == len(edited[means]) > len(source[means])
    for name in (name for name in source if "gauss_params" in name and source[name].numel()):
        assert torch.equal(edited[name][held], source[name][~inside]), name


def test_what_the_prior_would_leave_alone_is_held_also_after_a_resume(ns_train, toy_splats):
    confined = (*TOYBOX, "--pipeline.change", "relevant", "--pipeline.resolution", 64, "--pipeline.refine-steps", 0)
    first = ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *confined, "--max-num-iterations", 6)
    )
    resumed = ns_train(
        *("pnr-edit-splat", "--load-dir", first.get_base_dir(), "--max-num-iterations", 8),
    )
    source = load_source_state(find_run(toy_splats))
    edited, again = (load_source_state(find_run(run.get_base_dir())) for run in (first, resumed))
    held = edited["_scene.frozen"]
    assert 0.3 < held.float().mean() < 0.98
    assert torch.equal(again["_scene.frozen"], held)
    for name in (name for name in source if "gauss_params" in name and source[name].numel()):
        assert torch.equal(again[name][held], source[name][held]), name
        assert not torch.equal(again[name][~held], source[name][~held]), name


def test_a_box_that_contains_nothing_is_an_error(ns_train, toy_splats, capfd):
    for box, message in (((90, 90, 90, 91, 91, 91), "contains none of the"), ((0, 0, 0, 0, 1, 1), "is empty")):
        with pytest.raises(SystemExit):
            ns_train(
                *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--pipeline.box", *box),
            )
        assert message in capfd.readouterr().err


def test_where_to_change_is_found_once_for_two_prompts(ns_train, toy_splats, monkeypatch):
    found, find = [], Hull.from_renderings

    def counting(*arguments):
        found.append(arguments)
        return find(*arguments)

    monkeypatch.setattr(Hull, "from_renderings", counting)
    confined = (*TOYBOX[:2], "--pipeline.change", "relevant", "--pipeline.perturb", "relevant")
    ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *confined, "--pipeline.resolution", 64),
        *("--pipeline.refine-steps", 0, "--max-num-iterations", 1),
    )
    assert len(found) == 1


@pytest.mark.parametrize("altered", [{"pick_grow": 0.1}, {"pick_invert": True}])
def test_an_object_that_nobody_named_is_not_altered(altered):
    with pytest.raises(UserError, match="say which one with"):
        RegionSettings(**altered).check()
    RegionSettings(click=(0, 1.0, 1.0), **altered).check()
