"""Which views an edit shows to its prior, and what it says about where they are seen from."""

import copy

import pytest
import torch

from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import SDS
from pds_nerfstudio.pipelines.distillation import DistillationPipeline
from pds_nerfstudio.pipelines.settings import DistilledViews
from pds_nerfstudio.priors.multi_view import MultiViewPrior
from pds_nerfstudio.scenes.rendering import Rendering

from .conftest import PROMPTS
from .test_edit import TOYBOX, scene_of

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(monkeypatch) -> list:
    """Every query that the prior is asked from now on."""
    seen, answer = [], MultiViewPrior.predict_noise

    def spy(self, queries):
        seen.extend(queries)
        return answer(self, queries)

    monkeypatch.setattr(MultiViewPrior, "predict_noise", spy)
    return seen


def test_the_prior_is_told_where_training_views_are_seen_from_and_needs_not_be(ns_train, toy_splats, asked):
    edit = ("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 3)
    ns_train(*edit)
    assert [query.cameras.together for query in asked] == [1] * len(asked)
    places = torch.stack([query.cameras.matrices[0, :3, 3] for query in asked])
    assert len(places.unique(dim=0)) >= 3
    asked.clear()
    ns_train(*edit, "--pipeline.tell-cameras", "False", "--pipeline.view-words", "True")
    assert asked
    assert all(query.cameras is None for query in asked)
    assert {query.prompt.partition(", ")[0] for query in asked} == {PROMPTS[1], PROMPTS[3]}
    assert all(query.prompt.endswith(" view") for query in asked)


@pytest.mark.parametrize(("method", "run"), [("pds-edit-splat", "toy_splats"), ("pds-edit", "toy_nerf")])
def test_orbits_and_training_views_take_turns_and_an_orbits_views_are_predicted_together(
    ns_train, request, asked, method, run
):
    config = ns_train(
        *(method, "--load-dir", request.getfixturevalue(run).parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 4),
        *("--pipeline.views", "both", "--pipeline.orbits", 2),
    )
    assert isinstance(config.pipeline.view, DistilledViews)
    assert all(value.isfinite().all() for value in scene_of(config).values())
    assert {query.cameras.together for query in asked} == {1, 4}
    for query in asked:
        assert len(query.t) == query.cameras.together
        assert len(query.t.unique()) == 1


def test_between_orbits_every_training_view_comes_once_before_any_comes_again():
    pipeline = DistillationPipeline.__new__(DistillationPipeline)
    config = copy.deepcopy(METHODS["pds-edit-splat"].config.pipeline)
    config.view.views = "both"
    vars(pipeline).update(config=config, views=range(12))
    for epoch in range(2):
        steps = range(2 * 12 * epoch, 2 * 12 * (epoch + 1), 2)
        assert sorted(index for step in steps for index in pipeline.views_of_step(step)[0]) == list(range(12))


@pytest.mark.parametrize(("views", "most"), [("training", 2), ("orbit", 4), ("both", 4)])
def test_memory_is_planned_for_the_largest_step(views, most):
    config = copy.deepcopy(METHODS["pds-edit-splat"].config.pipeline)
    config.view.views, config.view.views_per_step = views, 2
    assert config.demand.views == most


def test_the_recipe_of_objects_revises_by_reconstruction_on_orbits(ns_train, toy_splats, asked):
    config = ns_train(
        *("pnr-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, "--pipeline.prior", "toybox"),
        *("--pipeline.recipe", "object", "--pipeline.resolution", 32),
        *("--pipeline.edit-steps", 2, "--pipeline.refine-steps", 1),
    )
    assert isinstance(config.pipeline.objective, SDS)
    assert config.pipeline.objective.weighting == "reconstruction"
    assert {query.cameras.together for query in asked} == {4}
    assert all(value.isfinite().all() for value in scene_of(config).values())


def test_a_refinement_and_an_inversion_tell_cameras_too(ns_train, toy_splats, asked):
    config = ns_train(
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 1),
    )
    asked.clear()
    ns_train("sdedit-refine-splat", "--load-dir", config.get_base_dir(), "--max-num-iterations", 1)
    assert asked
    assert all(query.cameras is not None for query in asked)
    asked.clear()
    ns_train(
        *("idu-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX[:6], "--max-num-iterations", 1),
        *("--pipeline.editor", "inversion", "--pipeline.inversion.num-steps", 2),
    )
    assert asked
    assert all(query.cameras is not None for query in asked)


@pytest.mark.parametrize(("method", "run"), [("pnr-edit-splat", "toy_splats"), ("pnr-edit", "toy_nerf")])
def test_an_object_is_edited_alone_and_at_two_resolutions(ns_train, request, method, run, monkeypatch):
    rendered = []
    enlarge = Rendering.enlarged

    def spy(self, *size):
        rendered.append((self.image.shape[-2:], size, self.accumulation[..., :2, :2].max().item()))
        return enlarge(self, *size)

    monkeypatch.setattr(Rendering, "enlarged", spy)
    config = ns_train(
        *(method, "--load-dir", request.getfixturevalue(run).parent, *PROMPTS, *TOYBOX, "--pipeline.eta", 0.1),
        *("--pipeline.recipe", "object", "--pipeline.edit-steps", 4, "--pipeline.refine-steps", 1),
        *("--pipeline.coarse", 0.5, "--pipeline.background", "removed", "--pipeline.subject", 0, 0, -0.3, 0.5),
        *("--pipeline.orbits", 2),
    )
    assert all(value.isfinite().all() for value in scene_of(config).values())
    sizes = {(tuple(small), large) for small, large, _ in rendered}
    assert len(rendered) == 2 * 4  # the first half of the edit's steps, four views each
    assert all(small == (height // 4, width // 4) for small, (height, width) in sizes)
    assert max(corner for *_, corner in rendered) < 0.1  # next to nothing is in the corners of a picture


def test_a_background_is_removed_of_orbits_about_what_was_named_alone(ns_train, toy_splats, capfd):
    edit = ("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 1)
    for options, said in (
        (("--pipeline.views", "orbit"), "has to know what the subject is"),
        ((), "is for orbits"),
    ):
        with pytest.raises(SystemExit) as ended:
            ns_train(*edit, "--pipeline.background", "removed", *options)
        assert ended.value.code != 0
        assert said in " ".join(capfd.readouterr().err.replace("│", " ").split())


def test_an_orbit_about_a_subject_that_nobody_walked_around_is_refused(ns_train, toy_splats, capfd):
    with pytest.raises(SystemExit) as ended:
        ns_train(
            *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 1),
            *("--pipeline.views", "orbit", "--pipeline.subject", 9, 9, 0, 1),
        )
    assert ended.value.code != 0
    assert "an orbit needs 270" in " ".join(capfd.readouterr().err.replace("│", " ").split())
