"""Recipes, and what two prompts seem to ask for."""

import json
import shutil

import pytest

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.priors.check import TOYBOX
from pds_nerfstudio.priors.recipe import COMMON, OF_VIEWS, editor_settings, read_recipe, read_wanted, recipe_of
from pds_nerfstudio.prompts import guess_ask
from pds_nerfstudio.studio.spec import EDITS as STUDIO_EDITS
from pds_nerfstudio.toybox.spec import EDITS

MAN = "a photo of a man"


@pytest.mark.parametrize(
    ("source", "target", "ask"),
    [
        ("a photo of a red ball", "a photo of a blue ball", "colour"),
        ("a photo of a red ball", "a photo of an orange ball", "colour"),
        ("a red chair, a red table", "a blue chair, a green table", "colour"),
        (MAN, f"{MAN} wearing a hat", "addition"),
        (MAN, f"{MAN} with a beard", "addition"),
        (f"{MAN} on a bench", f"{MAN} holding a book on a bench", "addition"),
        (MAN, "an oil painting of a man", "style"),
        (MAN, f"{MAN}, in the style of Van Gogh", "style"),
        (MAN, f"{MAN} raising his arms", None),
        (MAN, f"{MAN} with his arms raised", None),
        (MAN, "a photo of a clown wearing a hat", None),
        ("a photo of a red ball", "a photo of a red cube", None),
        ("a photo of a red ball", "a photo of a wooden ball", "colour"),
        ("a photo of a glazed ceramic vase", "a photo of a marble vase", "colour"),
        ("an orange ball", "a ball", None),
        (MAN, "a photo of a marble man", None),
        ("a photo of a blue mug", "a photo of a blue mug beside a book", "addition"),
        ("", "a photo of a blue ball", None),
        (MAN, MAN, None),
        ("a photo of a man wearing a hat", MAN, None),
    ],
)
def test_what_prompts_ask_for_is_guessed_where_words_leave_little_doubt(source, target, ask):
    assert guess_ask(source, target) == ask


@pytest.mark.parametrize("edit", [*EDITS, *STUDIO_EDITS], ids=lambda edit: edit.name)
def test_of_edits_with_a_known_answer_every_colour_and_addition_is_known_and_no_shape_is_mistaken(edit):
    asks = {"appearance": "colour", "addition": "addition", "shape": None}
    assert guess_ask(edit.source_prompt, edit.target_prompt) == asks[edit.kind]


def test_of_rules_that_set_the_same_the_last_one_counts():
    recipe = recipe_of("toybox")
    name = "pipeline.objective.guidance_scale"
    assert recipe.settings("pds-edit", "splatfacto")[name] == 7.5
    assert recipe.settings("pnr-edit", "splatfacto")[name] == 2
    assert recipe.settings("pnr-edit", "splatfacto", "object")[name] == 7.5
    assert recipe.settings("pnr-edit", "splatfacto", "colour", objective="pds")[name] == 7.5
    assert recipe.settings("pnr-edit", "splatfacto")["pipeline.edit_steps"] == 600
    assert recipe.settings("pnr-edit", "splatfacto", None, ["quick"])["pipeline.edit_steps"] == 300
    assert not recipe.settings("source-splatfacto", "splatfacto")


def test_a_folder_without_a_recipe_has_the_common_one_and_a_lora_its_own(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    assert recipe_of(str(tmp_path)).path == recipe_of("owner/name").path == COMMON
    assert not recipe_of(str(tmp_path)).measured
    views = shutil.copytree(TOYBOX, tmp_path / "views", ignore=shutil.ignore_patterns("recipe.json"))
    assert recipe_of(str(views)).path == OF_VIEWS
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "pytorch_lora_weights.safetensors").write_bytes(b"")
    (lora / "lora.json").write_text('{"base": "toybox"}')
    assert recipe_of(str(lora)).name == "toybox"
    own = {"name": "mine", "source": "tried", "measured": False, "rules": []}
    (lora / "recipe.json").write_text(json.dumps(own))
    assert recipe_of(str(lora)).name == "mine"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("none", "quick"), "leave the other words out"),
        (("colour", "shape"), "one kind of edit"),
        (("fast",), "is no file: give one, or a word of none, colour"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, reason):
    with pytest.raises(UserError, match=reason):
        read_wanted(words)


def test_words_and_files_of_a_recipe_are_told_apart(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    wanted = read_wanted(["colour", "quick", str(tmp_path)])
    assert (wanted.ask, wanted.budgets, wanted.path) == ("colour", ("quick",), tmp_path / "recipe.json")
    assert read_wanted([]) == read_wanted(())
    assert read_wanted(["none"]).none


GOOD = {"name": "mine", "source": "tried", "measured": False, "rules": [{"set": {}}]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "no dict"),
        ("{", "damaged"),
        (json.dumps(GOOD | {"rules": {}}), "'rules'"),
        (json.dumps(GOOD | {"author": "me"}), "'author'"),
        (json.dumps(GOOD | {"rules": [{"set": {}}, {"set": {}, "when": {}}]}), "rule 2"),
        (json.dumps(GOOD | {"rules": [{"for": {"method": ["pds-edit"]}, "set": {}}]}), "rule 1"),
        (json.dumps(GOOD | {"rules": [{"for": {"methods": "pds-edit"}, "set": {}}]}), "rule 1"),
        (json.dumps(GOOD | {"rules": ["pds-edit"]}), "rule 1"),
        *(
            (json.dumps(GOOD | {"rules": [{"set": {name: "x"}}]}), f"sets {name}, which is for the command line")
            for name in ("output_dir", "pipeline.prior", "pipeline.model.num_levels", "viewer.websocket_host")
        ),
    ],
)
def test_a_damaged_recipe_ends_in_a_sentence(content, reason, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(UserError, match=reason):
        read_recipe(path)


def test_photographs_are_edited_by_the_same_recipe():
    prompts = "a photo of a red ball", "a photo of a blue ball"
    assert editor_settings("toybox", "pds", prompts) == {
        "guidance_scale": 7.5,
        "min_step_percent": 0.1,
        "max_step_percent": 0.9,
    }
    assert editor_settings("toybox", "sdedit", prompts)["guidance_scale"] == 2
    assert editor_settings("owner/name", "pds", prompts) == {}
