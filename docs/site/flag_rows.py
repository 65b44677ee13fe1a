"""Flags as a parser has them, and as rows of a table."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from annotated_types import Ge, Gt, Le, Lt

from pds_nerfstudio.flags import parser_of
from pds_nerfstudio.pipelines.settings import Group
from pds_nerfstudio.ranges import range_of

BY_DEFAULT = re.compile(r"\s*\((default: (?P<default>.*)|required|optional|repeatable)\)\s*$", re.S)
KINDS = {"STR": "text", "INT": "integer", "FLOAT": "number", "PATH": "path"}
SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


@dataclass(frozen=True)
class Flag:
    """One flag of one command."""

    name: str
    """Without dashes; of an argument that has no flag, its name in capitals."""
    written: str
    """As it is typed, with its other names."""
    values: str
    """What may follow it, with the range of a number."""
    default: str
    text: str


def flags_of_command(kind: type) -> list[Flag]:
    """The flags of a command of `pds`."""
    return list(_flags(parser_of(kind), _ranges_of_class(kind), switches=True))


def flags_of_method(config: Any) -> list[Flag]:
    """The flags of a method of `ns-train`, without those of the datasets."""
    return list(_flags(parser_of(type(config), config), dict(_ranges(config)), switches=False))


def flags_of_datasets(config: Any) -> dict[str, list[Flag]]:
    """The flags of each format of datasets, by its name on the command line."""
    parser = parser_of(type(config), config)
    formats = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    return {name: list(_flags(below, {}, switches=False)) for name, below in formats.items()}


def table(columns: Sequence[tuple[str, Iterable[Flag]]]) -> str:
    """Rows of flags; those that several methods have stand in one, with the defaults in which they differ.

    Args:
        columns: what a method is called in the table, and its flags.
    """
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    names = [label for label, _ in columns]
    written = {}
    for label, flags in columns:
        for flag in flags:
            rows.setdefault((flag.name, flag.values, flag.text), {})[label] = flag.default
            written[flag.name] = flag.written
    lines = ["| flag | values | default | |", "|---|---|---|---|"]
    for (name, values, text), defaults in rows.items():
        only = "" if len(defaults) == len(names) else f" *({_listed(list(defaults), names)} only)*"
        lines.append(f"| {written[name]} | {_cell(values)} | {_defaults(defaults)} | {_cell(text)}{only} |")
    return "\n".join(lines) + "\n"


def _flags(parser: Any, ranges: dict[str, str], switches: bool) -> Iterator[Flag]:
    for action in parser._actions:
        if action.metavar == "{fixed}" or action.dest == "help" or isinstance(action.choices, dict):
            continue
        text, default = _split(action.help or "")
        options = [option for option in action.option_strings if not _negates(option, action.option_strings)]
        longest = max(options, key=len, default="")
        name = longest.removeprefix("--") or action.dest.upper().replace("-", "_")
        negated = [option for option in action.option_strings if option not in options]
        if options:
            shown = sorted(options, key=len, reverse=True) + (negated if switches else [])
            written = ", ".join(f"`{option}`" for option in shown)
        else:
            written = f"`{name}`"
        values = _values(action, switches)
        bounds = ranges.get(action.dest.replace("-", "_"), ranges.get(name.replace("-", "_"), ""))
        yield Flag(name, written, f"{values}; {bounds}" if bounds and values else values or bounds, default, text)


def _negates(option: str, options: Sequence[str]) -> bool:
    *before, last = option.removeprefix("--").split(".")
    return last.startswith("no-") and f"--{'.'.join([*before, last.removeprefix('no-')])}" in options


def _split(text: str) -> tuple[str, str]:
    """A help text without what tyro adds to it, and the default that it adds."""
    found = BY_DEFAULT.search(text)
    if found is None:
        return " ".join(text.split()), ""
    default = found["default"]
    if default is None:
        return " ".join(text[: found.start()].split()), "none: to be given" if "required" in found[0] else ""
    default = re.sub(r"<function (\w+) at 0x\w+>|<class '([\w.]+)'>", r"\1\2", default)
    return " ".join(text[: found.start()].split()), default if default.strip("' ") else "empty"


def _values(action: Any, switches: bool) -> str:
    if action.metavar is None:
        return "" if switches else "True, False"
    words = re.sub(r"\[+([^\[\]]+?) \[\1 \.\.\.\]\]+", r"\1 …", str(action.metavar))
    words = re.sub(r"[{}\[\]]", "", re.sub(r"\s*[|,]\s*", ", ", words))
    return re.sub("|".join(KINDS), lambda match: KINDS[match[0]], words)


def _ranges(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The range of every number of a configuration, by the dotted name of its flag."""
    members = config if isinstance(config, dict) else {own.name: getattr(config, own.name) for own in fields(config)}
    for name, value in members.items():
        if isinstance(value, Group):
            yield from _ranges(value, prefix)
        elif isinstance(value, dict) or (is_dataclass(value) and not isinstance(value, type)):
            yield from _ranges(value, f"{prefix}{name}.")
        elif type(config).__module__.startswith("pds_nerfstudio") and (bounds := _bounds(type(config), name)):
            yield f"{prefix}{name}", bounds


def _ranges_of_class(kind: type) -> dict[str, str]:
    return {field.name: bounds for field in fields(kind) if (bounds := _bounds(kind, field.name))}


def _bounds(kind: type, name: str) -> str:
    said = []
    for bound in range_of(kind, name):
        (value,) = dataclasses.astuple(bound)
        said.append(f"{SIGNS[type(bound)]} {value:,}" if isinstance(value, int) else f"{SIGNS[type(bound)]} {value:g}")
    return ", ".join(said)


def _defaults(defaults: dict[str, str]) -> str:
    """One default where it is the same for all, else each with whose it is."""
    by_value: dict[str, list[str]] = {}
    for label, value in defaults.items():
        by_value.setdefault(value, []).append(label)
    if len(by_value) == 1:
        return _code(next(iter(by_value)))
    return "; ".join(f"{_listed(labels, list(defaults))}: {_code(value)}" for value, labels in by_value.items())


def _listed(labels: Sequence[str], all_labels: Sequence[str]) -> str:
    """Some labels of many, in as few words as may be."""
    rest = [label for label in all_labels if label not in labels]
    if len(rest) == 1 and len(labels) > 2:
        return f"all but {rest[0]}"
    families = {"methods on splats": lambda label: label.endswith(("-splat", "splatfacto"))}
    for words, belongs in families.items():
        if len(labels) > 2 and list(labels) == [label for label in all_labels if belongs(label)]:
            return words
        if len(labels) > 2 and list(labels) == [label for label in all_labels if not belongs(label)]:
            return "methods on NeRFs"
    return ", ".join(labels)


def _code(value: str) -> str:
    return f"`{value.replace('|', ', ')}`" if value and value not in ("empty", "none: to be given") else value


def _cell(text: str) -> str:
    """Text as one cell: what Markdown would read in it is escaped, code stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part.replace("|", ", ") if part.startswith("`") else re.sub(r"([\\*_|<>\[\]])", r"\\\1", part) for part in parts
    )
