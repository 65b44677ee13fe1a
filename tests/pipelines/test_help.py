"""Every flag of an edit says what it is, in a sentence that needs no other."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields, is_dataclass

import pytest

from pds_nerfstudio.cli import commands, edit
from pds_nerfstudio.flags import parser_of
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.objectives import BY_NAME
from pds_nerfstudio.pipelines.command_line import flag_names
from pds_nerfstudio.pipelines.edit_config import ORDER, EditConfig
from pds_nerfstudio.pipelines.most_used import most_used
from pds_nerfstudio.pipelines.settings_tree import settings

LEANS_ON_ANOTHER = re.compile(r"^The same\b|\b(likewise|in the same way|ditto|as above)\b")


def help_texts(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, those of its bases too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base) or not base.__module__.startswith("pds_nerfstudio"):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = (
                    after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                found[field.target.id] = str(text)
    return found


def flags() -> dict[tuple[str, str], str]:
    """Help text of every setting of every method, by its class and name."""
    texts = {}
    for method in METHODS.values():
        pipeline = method.config.pipeline
        if not isinstance(pipeline, EditConfig):
            continue
        for name, holder in settings(pipeline):
            value = getattr(holder, name)
            if name in ("_target", "datamanager", "model"):
                continue
            texts[type(holder).__name__, name] = help_texts(type(holder)).get(name, "")
            if is_dataclass(value):
                own = help_texts(type(value))
                texts |= {(type(value).__name__, part.name): own.get(part.name, "") for part in fields(value)}
    return texts


FLAGS = flags()


@pytest.mark.parametrize("flag", FLAGS, ids=".".join)
def test_a_flag_has_a_help_text_that_stands_alone(flag):
    text = " ".join(FLAGS[flag].split())
    assert len(text.split()) >= 4, "too short to say anything"
    assert text.endswith(".")
    assert not LEANS_ON_ANOTHER.search(text), text


def test_prompts_and_prior_come_first_and_what_belongs_to_the_machine_last():
    for method in METHODS.values():
        if isinstance(method.config.pipeline, EditConfig):
            names = [member.name for member in fields(method.config.pipeline)]
            assert names[:6] == list(ORDER[:6])
            assert names[-2:] == ["compute", "run"]


@pytest.mark.parametrize("method", METHODS)
def test_the_flags_that_a_help_page_begins_with_are_the_methods_own(method):
    config = METHODS[method].config
    listed = most_used(config)
    assert set(listed) <= flag_names(config)
    wanted = {"pipeline.tgt-prompt", "load-dir"} if isinstance(config.pipeline, EditConfig) else {"data"}
    assert wanted | {"max-num-iterations", "vis", "output-dir", "verbose"} <= set(listed)
    assert config.vis == "viewer"  # as `pds edit` says without importing this


def test_pds_edit_offers_the_methods_that_edit():
    edits = [name.removesuffix("-splat") for name in METHODS if name.endswith("-edit-splat")]
    assert sorted(edit.METHODS) == sorted(edits)


def test_a_family_is_offered_only_its_own_settings():
    of_nerfs, of_splats = (
        {name for name, _ in settings(METHODS[method].config.pipeline)} for method in ("pnr-edit", "pnr-edit-splat")
    )
    assert of_nerfs - of_splats == {"rays_per_chunk", "backward_share", "proposal_losses"}
    assert of_splats - of_nerfs == {
        *("new_gaussians", "densify_from", "densify_until", "densify_every", "densify_growth"),
        *("eta_opacity", "eta_colour"),
    }


COMMANDS = {
    (command, action.dest): re.sub(r"\s*\((default: .*|required|repeatable)\)$", "", action.help, flags=re.S)
    for command, kind in commands().items()
    for action in parser_of(kind)._actions
    if action.dest != "help"
}


@pytest.mark.parametrize("flag", COMMANDS, ids=" ".join)
def test_a_flag_of_a_command_has_a_help_text_that_stands_alone(flag):
    text = " ".join(COMMANDS[flag].split())
    assert len(text.split()) >= 3, "too short to say anything"
    assert text.endswith(".")
    assert not LEANS_ON_ANOTHER.search(text), text
    assert not re.match(r"(Of|Or|In place of their) ", text), text


@pytest.mark.parametrize("command", ["preview", "svg"])
def test_every_objective_is_named_where_one_is_asked_for(command):
    text = help_texts(commands()[command])["objective"]
    assert set(BY_NAME) <= set(re.findall(r"\w+", text))
