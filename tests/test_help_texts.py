"""Help texts are wrapped to the terminal's width, wherever the source breaks its lines."""

from dataclasses import dataclass

import docstring_parser
import pytest

from pds_nerfstudio.cli import commands
from pds_nerfstudio.flags import parser_of
from pds_nerfstudio.help_texts import join_lines, joined
from pds_nerfstudio.methods import METHODS


@dataclass
class Elsewhere:
    """A class of another package."""

    field: int = 0
    """One line,
    and another."""


def texts(parser) -> dict[str, str]:
    """The help of every flag."""
    return {action.dest: action.help or "" for action in parser._actions}


@pytest.mark.parametrize("name", ["edit", "bench", "gallery", "preview"])
def test_help_of_a_command_breaks_in_no_sentence(name):
    join_lines()
    found = texts(parser_of(commands()[name]))
    assert len(found) > 5
    assert [flag for flag, text in found.items() if "\n" in text.strip()] == []


def test_help_of_a_method_breaks_in_no_sentence():
    config = METHODS["pnr-edit-splat"].config
    found = texts(parser_of(type(config), config))
    named = ("pipeline.coarse", "pipeline.compute.fit", "pipeline.run.recipe", "replay", "pipeline.objective.weighting")
    assert [flag for flag in named if "\n" in found[flag].strip()] == []


def test_texts_of_other_packages_stay_as_they_are():
    join_lines()
    (field,) = docstring_parser.parse_from_object(Elsewhere).params
    assert field.description is not None
    assert field.description.count("\n") == 1


def test_joining_twice_is_joining_once():
    join_lines()
    first = docstring_parser.parse_from_object
    join_lines()
    assert docstring_parser.parse_from_object is first


def test_paragraphs_stay_apart():
    assert joined("One line,\n    and another.\n\n    A second\n    paragraph.") == (
        "One line, and another.\n\nA second paragraph."
    )
