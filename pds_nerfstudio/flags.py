"""What people type for flags: prompts by one name in every command, and the right flag for a mistyped one."""

from collections.abc import Callable, Container, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any

import tyro

from pds_nerfstudio.errors import UserError

SHORT = {"from": "src-prompt", "to": "tgt-prompt"}
PROMPTS = ("src-prompt", "tgt-prompt")
"""The flags of an edit's prompts, by these names in every command, with or without `pipeline.` before them."""
TEXTS = (
    *(*PROMPTS, "prompt", "class-prompt", "instance-prompt"),
    *(f"{stage}-args" for stage in ("edit", "refine", "render", "evaluate", "dreambooth")),
)
"""Flags whose values may begin with a dash, as no flag's name does."""
TYPOGRAPHIC = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
"""Quotation marks that mean nothing to a shell."""
ALIKE = 0.75
"""How alike two flags must be, by difflib's measure, for one to be a mistyped other."""
ALIKE_AT_THE_END = 0.8
"""The same of what stands behind their last dots, which is shorter."""
ELSEWHERE = {
    **dict.fromkeys(("steps", "num-steps", "iterations", "num-iterations", "max-iterations"), "max-num-iterations"),
    **dict.fromkeys(("guidance", "cfg", "cfg-scale"), "pipeline.objective.guidance-scale"),
    **dict.fromkeys(("out", "output"), "output-dir"),
}
"""What flags are called elsewhere, and here."""


def tidied(arguments: Sequence[str], prefix: str) -> list[str]:
    """The same command line with its prompts' flags as this command has them.

    A prompt that begins with a dash is joined to its flag, since argparse takes it for a flag of its own.

    Args:
        prefix: what stands before "src-prompt": "--", or "--pipeline." of `ns-train`.
    """
    words: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        name = _plain(flag).removeprefix("pipeline.")
        name = SHORT.get(name, name)
        if not flag.startswith("--") or name not in TEXTS:
            words.append(word)
            continue
        flag = prefix + name if name in PROMPTS else flag
        alone = len(left) == 1 or (len(left) > 1 and left[1].startswith("--"))
        is_value = name.endswith("-args") and bool(left) and left[0].startswith("-")
        if not equals and (is_value or (alone and _is_text(left[0]))):
            equals, value = "=", left.pop(0)
        words.append(flag + equals + value)
    return words


def refuse_mistyped(arguments: Sequence[str], command: str, known: Callable[[], set[str]]) -> None:
    """Raise UserError for a flag that this command does not have, with one like it where there is one.

    Args:
        arguments: the words behind the command.
        known: makes the names of its flags, which takes a while.
    """
    flags = known() if any(map(_is_flag, arguments)) else set()
    for word in unknown_flags(arguments, flags):
        typed = _plain(word)
        last = typed.rpartition(".")[2]
        ends = sorted((flag for flag in flags if flag.rpartition(".")[2] == last), key=len)
        known_as = [flag for flag in (ELSEWHERE.get(typed),) if flag in flags]
        close = known_as or ends or get_close_matches(typed, flags, 1, ALIKE) or _alike_at_the_end(typed, flags)
        if close:
            raise UserError(f"{command} has no --{typed}: did you mean --{close[0]}?")
        raise UserError(f"{command} has no --{typed}: {command} --help lists its flags.")


def unknown_flags(arguments: Sequence[str], known: Container[str]) -> list[str]:
    """The flags among the words of a command line that are none of these, which have no dashes before them."""
    typed = [word.partition("=")[0] for word in filter(_is_flag, arguments)]
    return [word for word in typed if _plain(word) not in known and _plain(word).partition(".")[0] != "help"]


def refuse_unquoted(
    arguments: Sequence[str], subcommands: Callable[[], Container[str]] | None = None, behind: int | None = None
) -> None:
    """Raise UserError for a prompt of several words that the shell has taken apart: without quotation marks, or with
    typographic ones, as a text editor makes them.

    Args:
        subcommands: makes what a word behind a prompt may be, where nothing else can follow.
        behind: how many words may follow a prompt. Without either, only prompts in typographic marks are refused, since
            other words may be meant.
    """
    for i, word in enumerate(arguments):
        name = _plain(word).removeprefix("pipeline.")
        if not word.startswith("--") or SHORT.get(name, name) not in TEXTS:
            continue
        if name.endswith("-args"):
            _refuse_unquoted_arguments(arguments, i)
        words = list(takewhile(lambda word: not word.startswith("--"), arguments[i + 1 :]))
        marked = bool(words) and words[0].startswith(tuple(TYPOGRAPHIC))
        more = (behind is not None and len(words) > 1 + behind) or _is_one_sentence(words)
        if len(words) > 1 and (marked or more or (subcommands is not None and words[1] not in subcommands())):
            prompt = " ".join(words).strip(TYPOGRAPHIC)
            raise UserError(f'The words behind {word} are not in quotation marks: write {word} "{prompt}".')


def _refuse_unquoted_arguments(arguments: Sequence[str], place: int) -> None:
    """Raise UserError for `--edit-args --vis tensorboard` behind a command's own words, where nothing else can be meant
    by the last one."""
    first, second, *_ = (*arguments[place + 1 :], "", "")
    taken_apart = first.startswith("--") and not set(first) & set(" =") and second and not second.startswith("--")
    if taken_apart and not arguments[0].startswith("--"):
        flag = arguments[place]
        raise UserError(f'The words behind {flag} are not in quotation marks: write {flag}="{first} {second}".')


def _is_one_sentence(words: Sequence[str]) -> bool:
    """Whether words, each of which could be a prompt, are rather one: it begins with an article, or is long."""
    return not any(" " in word for word in words) and (len(words) > 3 or words[:1] in (["a"], ["an"], ["the"]))


def flags_of(parser: Any) -> set[str]:
    """The names of all flags of a parser and of the subcommands below it, with dashes."""
    names: set[str] = set()
    for action in parser._actions:
        names |= {_plain(name) for name in action.option_strings}
        if isinstance(action.choices, dict):  # subcommands; tyro's argparse is a copy of Python's
            for below in action.choices.values():
                names |= flags_of(below)
    return names


def parser_of(kind: Any, default: Any = None) -> Any:
    """tyro's parser of a command's class, or of a configuration."""
    return tyro.extras.get_parser(kind) if default is None else tyro.extras.get_parser(kind, default=default)


def _plain(flag: str) -> str:
    return flag.removeprefix("--").replace("_", "-")


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2 and " " not in word.partition("=")[0]


def _is_text(word: str) -> bool:
    return word.startswith("-") and word != "-h" and (" " in word or not word.startswith("--"))


def _alike_at_the_end(typed: str, flags: set[str]) -> list[str]:
    """Flags whose last part is nearly what was typed, whatever stands before it."""
    by_end = {flag.rpartition(".")[2]: flag for flag in sorted(flags, key=len, reverse=True)}
    return [by_end[end] for end in get_close_matches(typed.rpartition(".")[2], by_end, 1, ALIKE_AT_THE_END)]
