"""Text that users, files and other programs gave, on its way to where markup is read: rich's, or Markdown's.

A prompt may hold `[/x]`, which ends rich in an error, `![x](/some/file)`, which Markdown reads as a picture, and
control characters, which terminals obey.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

ANYWHERE = re.compile(r"([\\`*_\[\]<>!|~$&])")
"""What means something to Markdown anywhere in a line."""
AT_THE_BEGIN = re.compile(r"^(\d{0,9})([-+#=:.)])")
"""What means something at its begin: lists, headings, definitions."""
NOTHING = "[not dim][/not dim]"
"""Rich's markup for nothing."""


def printable(text: object) -> str:
    """Text without control characters, each of which becomes the replacement character: what a terminal may get."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def visible(text: object) -> str:
    """The same in one line, white space as single spaces."""
    return printable(" ".join(str(text).split()))


def in_rich(text: object) -> str:
    """Text as rich prints it unchanged, within or beside markup: for `print`, tables, titles and progress bars."""
    from rich.markup import escape

    shown = visible(text)
    body = shown.rstrip("\\")
    # A backslash at the end would escape the markup that follows, so it is doubled before markup that does nothing.
    end = "\\\\" * (len(shown) - len(body)) + NOTHING if len(shown) > len(body) else ""
    return re.sub(r":(?=\S+:)", f":{NOTHING}", escape(body)) + end  # rich turns :words: into emoji


def in_markdown(text: object) -> str:
    """Text as Markdown shows it unchanged: no picture, link, emphasis or HTML begins in it."""
    return AT_THE_BEGIN.sub(r"\1\\\2", ANYWHERE.sub(r"\\\1", visible(text)))


def meant(typed: str, known: Iterable[str]) -> str:
    """The one of these names that a mistyped one is nearly, or begins; empty where it is like none."""
    known = list(known)
    begun = [name for name in known if typed and name.startswith(f"{typed}-")]
    return next(iter([*begun[:1], *get_close_matches(typed, known, 1)]), "")


def choices(typed: str, known: Iterable[str], several: str = "choose among") -> str:
    """How a sentence goes on about a name that there is not: with the one that was meant, and with all there are."""
    known = list(known)
    close = meant(typed, known)
    return f"{f'did you mean {close}? Otherwise ' if close else ''}{several} {', '.join(known)}."
