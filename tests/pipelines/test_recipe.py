"""An edit by the recipe of its prior: what `ns-train` types out is what the demo and the benchmark run."""

import copy
import json
import sys
from dataclasses import replace

import pytest

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import DDS
from pds_nerfstudio.pipelines.command_line import Given
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.plan import prepare
from pds_nerfstudio.pipelines.recipe import follow
from pds_nerfstudio.pipelines.revise import ReviseConfig
from pds_nerfstudio.pipelines.settings_tree import part, settings
from pds_nerfstudio.pipelines.steering import BEGIN, settings_of
from pds_nerfstudio.priors.recipe import COMMON, OF_VIEWS
from pds_nerfstudio.toybox.spec import find_edit

EDITS = [name for name, method in METHODS.items() if isinstance(method.config.pipeline, EditConfig)]
COLOUR = "a photo of a red ball", "a photo of a blue ball"
GUIDANCE = "pipeline.objective.guidance_scale"


def config_of(method, prompts=COLOUR, prior="toybox", recipe=()):
    config = copy.deepcopy(METHODS[method].config)
    config.pipeline.src_prompt, config.pipeline.tgt_prompt = prompts
    config.pipeline.prior, config.pipeline.run.recipe = prior, recipe
    return config


@pytest.mark.parametrize("words", [(), ("colour", "quick"), ("shape", "quality"), ("style",), ("object",)])
@pytest.mark.parametrize("method", EDITS)
def test_what_a_recipe_in_the_package_sets_every_method_has(method, words):
    follow(config_of(method, recipe=words), ())
    for of_package in (COMMON, OF_VIEWS):
        more = (*words, "low-vram") if "quick" in words else words
        follow(config_of(method, prior="owner/name", recipe=(str(of_package), *more)), ())


def test_what_was_named_wins_and_what_was_taken_is_said():
    config = config_of("pnr-edit-splat")
    said = follow(config, {GUIDANCE, "optimizers.means.optimizer.eps"})
    assert part(config, GUIDANCE) == 100
    assert config.optimizers["means"]["optimizer"].eps == 1e-15
    assert config.optimizers["features_dc"]["optimizer"].lr == 0.03
    assert part(config, "pipeline.change") == "relevant"
    assert "colour as the prompts seem to ask" in said
    assert "features_dc lr 0.03" in said
    assert "guidance" not in said


@pytest.mark.parametrize(("by", "guidance"), [("dds", 2.0), ("pds", 7.5), ("ssd", 7.5)])
def test_the_guidance_of_one_objective_is_not_given_to_another(by, guidance):
    config = config_of("pnr-edit-splat")
    config.pipeline.by = by
    follow(config, {"pipeline.by"})
    assert (config.pipeline.by, part(config, GUIDANCE)) == (by, guidance)


def test_what_was_named_is_kept_where_it_is_the_default_of_another_objective():
    config = config_of("pnr-edit-splat")
    config.pipeline.by = "dds"
    follow(config, {"pipeline.by", GUIDANCE})
    assert config.pipeline.objective.guidance_scale == 100
    config = ReviseConfig(by="dds")
    config.choose_objective({GUIDANCE})
    assert config.objective == DDS(guidance_scale=100.0)
    config = ReviseConfig(by="dds")
    config.choose_objective()
    assert config.objective == DDS()


@pytest.mark.parametrize("by", ["fly", 3, ["dds"], True])
def test_a_recipe_names_an_objective_that_there_is(tmp_path, by):
    recipe = {"name": "mine", "source": "nowhere", "measured": False, "rules": [{"set": {"pipeline.by": by}}]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(UserError, match=r"sets pipeline\.by to .*, which is no objective"):
        follow(config_of("pnr-edit-splat", recipe=(str(tmp_path / "recipe.json"),)), ())


def test_annealing_is_not_given_to_another_objective_than_the_recipes():
    for by, anneal in (("sds", True), ("pds", False)):
        config = config_of("pnr-edit-splat", recipe=("object",))
        config.pipeline.by = by
        follow(config, {"pipeline.by"})
        assert part(config, "pipeline.anneal") is anneal


@pytest.mark.parametrize("recipe", [COMMON, OF_VIEWS], ids=lambda path: path.stem)
@pytest.mark.parametrize("method", [name for name in EDITS if not name.endswith("-splat") and name != "idu-edit"])
def test_quick_is_quicker(recipe, method):
    steps = []
    for words in ((), ("quick",)):
        config = config_of(method, prior="owner/name", recipe=(str(recipe), *words))
        follow(config, ())
        steps.append(getattr(config.pipeline, "steps", None) or config.max_num_iterations)
    own, quick = steps
    assert quick < own or own <= 3000


@pytest.mark.parametrize(("prior", "of_nerfs"), [("toybox", ("dds", 2.0)), ("toybox-flow", ("pds", 15.0))])
def test_toybox_revises_by_dds_and_its_flow_prior_splats_alone(prior, of_nerfs):
    chosen = {}
    for method in ("pnr-edit-splat", "pnr-edit"):
        config = config_of(method, prior=prior)
        follow(config, ())
        chosen[method] = config.pipeline.by, part(config, GUIDANCE)
    assert chosen == {"pnr-edit-splat": ("dds", 2.0), "pnr-edit": of_nerfs}


def test_none_leaves_the_methods_own_and_a_recipe_is_followed_once():
    config = config_of("pds-edit-splat", recipe=("none",))
    assert follow(config, ()) == ""
    assert part(config, GUIDANCE) == 100
    config.pipeline.run.recipe = ()
    assert follow(config, ())
    config.pipeline.objective = type(config.pipeline.objective)(guidance_scale=3.0)
    assert follow(config, ()) == ""
    assert part(config, GUIDANCE) == 3


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("pipeline.objective.guidance", 3, "no setting 'guidance'"),
        ("pipeline.resolutoin", 64, "no setting"),
        ("max_num_iterations", "many", "of another kind"),
        (GUIDANCE, -1, "guidance_scale"),
    ],
)
def test_what_a_recipe_cannot_set_ends_in_a_sentence_that_names_it(name, value, reason, tmp_path):
    path = tmp_path / "mine.json"
    rules = [{"set": {name: value}}]
    path.write_text(json.dumps({"name": "mine", "source": "", "measured": False, "rules": rules}))
    with pytest.raises(UserError, match=f"(?s){path}.*{reason}"):
        follow(config_of("pds-edit-splat", recipe=(str(path),)), ())


def test_a_recipe_may_set_what_has_no_value_yet_and_what_can_be_measured(tmp_path):
    path = tmp_path / "mine.json"
    rules = [{"set": {"pipeline.eta": "auto", "pipeline.box": [-1, -1, -1, 1, 1, 1], "pipeline.fit": 12}}]
    path.write_text(json.dumps({"name": "mine", "source": "", "measured": False, "rules": rules}))
    config = config_of("pnr-edit-splat", recipe=(str(path),))
    follow(config, ())
    assert part(config, "pipeline.eta") == "auto"
    assert part(config, "pipeline.box") == (-1, -1, -1, 1, 1, 1)


def test_a_word_that_a_recipe_has_nothing_for_is_refused():
    with pytest.raises(UserError, match="nothing for low-vram"):
        follow(config_of("pds-edit", recipe=("low-vram",)), ())
    follow(config_of("pds-edit", prior="owner/name", recipe=(str(COMMON), "low-vram")), ())


@pytest.mark.parametrize("method", ["pnr-edit-splat", "pds-edit-splat"])
@pytest.mark.parametrize("name", ["can-to-cone", "red-to-blue"])
def test_the_readmes_command_and_the_demo_train_by_one_configuration(method, name, toy_splats, tmp_path, monkeypatch):
    from pds_nerfstudio.evaluation import trial

    edit, prepared = find_edit(name), []

    def remember(config):
        prepare(config, METHODS[method].config)
        prepared.append(config)
        return tmp_path

    monkeypatch.setattr(trial, "train", remember)
    trial.run_edit(method, toy_splats, edit, tmp_path, trial.SETTINGS["splatfacto"], seed=0)
    typed = config_of(method, (edit.source_prompt, edit.target_prompt))
    typed.load_dir, typed.output_dir = toy_splats.parent / "nerfstudio_models", tmp_path
    typed.given = Given({"pipeline.prior", "pipeline.src_prompt", "pipeline.tgt_prompt"})
    remember(typed)
    demo, readme = ({n: getattr(holder, n) for n, holder in settings(config.pipeline)} for config in prepared)
    assert demo == readme
    assert prepared[0].optimizers == prepared[1].optimizers
    assert prepared[0].max_num_iterations == prepared[1].max_num_iterations == 800


def test_a_short_trial_shortens_both_stages_of_the_recipe(toy_splats, tmp_path, monkeypatch):
    edit = find_edit("can-to-cone")
    config = config_of("pnr-edit-splat", (edit.source_prompt, edit.target_prompt))
    config.load_dir, config.output_dir = toy_splats.parent / "nerfstudio_models", tmp_path
    config.max_num_iterations = 40
    line = ["ns-train", "pnr-edit-splat", "--load-dir", "x", "--pipeline.prior", "toybox", "--max-num-iterations", "40"]
    monkeypatch.setattr(sys, "argv", line)
    prepare(config, METHODS["pnr-edit-splat"].config)
    assert (config.pipeline.edit_steps, config.pipeline.refinement.refine_steps) == (30, 10)
    assert config.optimizers["means"]["scheduler"].max_steps == 40


def test_what_a_replayed_session_began_with_goes_before_the_recipe(toy_splats, tmp_path):
    steered = config_of("pds-edit-splat").pipeline
    steered.objective = replace(steered.objective, guidance_scale=33.0)
    session = tmp_path / "session.jsonl"
    session.write_text(json.dumps({"step": 0, "change": BEGIN, "value": settings_of(steered)}) + "\n")
    config = config_of("pds-edit-splat", prompts=("", ""))
    config.load_dir, config.output_dir = toy_splats.parent / "nerfstudio_models", tmp_path / "out"
    config.replay = session
    prepare(config, METHODS["pds-edit-splat"].config)
    assert part(config, GUIDANCE) == 33
    assert config.pipeline.tgt_prompt == COLOUR[1]
    assert config.optimizers["features_dc"]["optimizer"].lr == 0.03
