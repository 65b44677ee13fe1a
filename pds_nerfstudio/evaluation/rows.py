"""The rows of a benchmark by name: a method, its settings in brackets, or a chain of them.

pds-edit
piva-edit[pipeline.objective.regularisation=0.8]
pnr-edit[pipeline.recipe=object,pipeline.subject=(0,0,0.5)]
pnr-edit+sdedit-refine[max_num_iterations=400]      the second link begins with what the first has made
"""

import ast
import re
from typing import Any, NamedTuple

from pds_nerfstudio.errors import UserError

NOTHING, CEILING, REGENERATE = "nothing", "ceiling", "regenerate"
KNOWN = {"prior-0.4": 0.4, "prior-0.8": 0.8}
"""Rows of what the prior knows without any scene: SDEdit of the true pictures, at this strength."""
ANCHORS = (NOTHING, CEILING, *KNOWN, REGENERATE)
"""Rows that are no method, and stand alone."""
WORDS = {"True": True, "False": False, "None": None}
BETWEEN_LINKS = re.compile(r"\+(?![^\[]*\])")
"""A plus sign that stands in no brackets."""
BETWEEN_SETTINGS = re.compile(r",(?![^(]*\))")
"""A comma that stands in no parentheses."""


class Link(NamedTuple):
    """One method of a row."""

    method: str
    """Without its -splat."""
    changes: dict[str, Any]
    """Its settings, by the names of `ns-train`'s flags."""


def read_chain(text: str) -> list[Link]:
    """The links of a row, first to last."""
    return [read_link(part) for part in BETWEEN_LINKS.split(text)]


def beginning(text: str, links: int) -> str:
    """The row that is the first so many links of this one."""
    return "+".join(BETWEEN_LINKS.split(text)[:links])


def read_link(text: str) -> Link:
    """A method and the settings that it is given in brackets, between commas.

    Raises:
        UserError: the brackets cannot be read.
    """
    method, bracket, rest = text.partition("[")
    pairs = [pair.partition("=") for pair in BETWEEN_SETTINGS.split(rest.removesuffix("]"))] if bracket else []
    if (bracket and not rest.endswith("]")) or any(not (name and equals) for name, equals, _ in pairs):
        raise UserError(f"The method {text!r} cannot be read: write METHOD[NAME=VALUE,NAME=VALUE].")
    return Link(method.strip(), {name.strip(): _value(text) for name, _, text in pairs})


def _value(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    if (word := text.strip().capitalize()) in WORDS:
        return WORDS[word]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()


def of_family(method: str, family: str) -> str:
    """`ns-train`'s name of a method for scenes of a family."""
    return method + "-splat" * (family == "splatfacto")
