"""Help texts are wrapped to the terminal's width, wherever the source breaks its lines."""

import functools
import inspect
from typing import Any

import docstring_parser


def join_lines() -> None:
    """Let tyro see the docstring of a field of this package without its line breaks. Safe to call again.

    tyro (1.0.16) joins a docstring's lines, but not those that are indented, as every further line of a field's
    docstring is: the help then breaks in the middle of a sentence. This can go once tyro dedents before it joins.
    """
    parse = docstring_parser.parse_from_object
    if hasattr(parse, "joins_lines"):
        return

    @functools.wraps(parse)
    def parse_and_join(obj: Any, *args: Any, **settings: Any) -> docstring_parser.Docstring:
        found = parse(obj, *args, **settings)
        if getattr(obj, "__module__", "").partition(".")[0] == __package__:
            for field in found.params:
                field.description = field.description and joined(field.description)
        return found

    parse_and_join.joins_lines = True  # pyright: ignore[reportAttributeAccessIssue]
    docstring_parser.parse_from_object = parse_and_join


def joined(text: str) -> str:
    """A docstring with one line for each paragraph."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))
