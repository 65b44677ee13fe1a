"""The reference, made of the code: every command of `pds` and every method of `ns-train`, with all their flags.

Names, values, defaults and help texts are those of the parsers that read the command line; ranges are those that are
declared beside the fields.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flag_rows import Flag, flags_of_command, flags_of_datasets, flags_of_method, table

from pds_nerfstudio.cli import commands
from pds_nerfstudio.methods import METHODS

NERFSTUDIOS = (
    *("pipeline.datamanager.", "pipeline.model.", "machine.", "logging.", "viewer."),
    *("optimizers.", "viewer-legacy."),
)
"""How flags begin that are listed on nerfstudio's page: this package changes at most their defaults."""
SECTIONS: dict[str, Callable[[str], bool]] = {
    "The edit": lambda name: name.startswith("pipeline.") and not name.startswith("pipeline.objective."),
    "The objective": lambda name: name.startswith("pipeline.objective."),
    "The run": lambda name: not name.startswith("pipeline."),
}


@dataclass(frozen=True)
class Page:
    """A page of the site."""

    path: str
    title: str
    markdown: str


@functools.cache
def pages() -> tuple[Page, ...]:
    """All pages of the reference but its first."""
    pairs = [name for name in METHODS if not name.endswith("-splat") and not name.startswith("source-")]
    return (
        _commands(),
        _methods("source-nerfacto, source-splatfacto", ("source-nerfacto", "source-splatfacto")),
        *(_methods(f"{name}, {name}-splat", (name, f"{name}-splat")) for name in pairs),
        _nerfstudios(),
        _datasets(),
    )


def index() -> str:
    """The first page: what there is."""
    lines = [
        "# Reference",
        "",
        "Made of the code when the site is built. Flags may be written with `-` or `_`.",
        "",
        "| `pds …` | |",
        "|---|---|",
        *(f"| [`{name}`](commands.md#pds-{name}) | {_first_sentence(kind)} |" for name, kind in commands().items()),
        "",
        "| `ns-train …` | |",
        "|---|---|",
        *(f"| [`{name}`]({_path(name)}) | {method.description} |" for name, method in METHODS.items()),
        "",
        "Settings that `ns-train` has for every method, and whose meaning is nerfstudio's, are on "
        "[a page of their own](nerfstudio.md), those of the formats of datasets on [another](datasets.md).",
    ]
    return "\n".join(lines) + "\n"


def _path(method: str) -> str:
    return f"{'sources' if method.startswith('source-') else method.removesuffix('-splat')}.md"


def _commands() -> Page:
    parts = ["# Commands of pds\n"]
    for name, kind in commands().items():
        parts += [f"## pds {name}\n", _paragraphs(kind.__doc__), table([("", flags_of_command(kind))])]
    return Page("reference/commands.md", "Commands of pds", "\n".join(parts))


def _methods(title: str, names: Sequence[str]) -> Page:
    parts = [f"# {title}\n"]
    parts += [f"`ns-train {name}`: {METHODS[name].description}\n" for name in names]
    parts.append(
        "The defaults are the method's own; a prior's recipe may set others for a new edit ([recipes](../recipes.md)). "
        "Rates of the optimisers, and flags of nerfstudio's own parts, are on [one page](nerfstudio.md).\n"
    )
    own = {name: [flag for flag in _flags(name) if not flag.name.startswith(NERFSTUDIOS)] for name in names}
    for section, belongs in SECTIONS.items():
        rows = [(_family(name), [flag for flag in own[name] if belongs(flag.name)]) for name in names]
        if any(flags for _, flags in rows):
            parts += [f"## {section}\n", table(rows)]
    return Page(f"reference/{_path(names[0])}", title, "\n".join(parts))


def _nerfstudios() -> Page:
    parts = [
        "# nerfstudio's own flags\n",
        "Flags of all methods that belong to nerfstudio's parts: the optimisers of a scene's parameters, how data are "
        "loaded, the model, the machine, logging, the viewer.\n",
    ]
    for prefix in NERFSTUDIOS:
        rows = [(name, [flag for flag in _flags(name) if flag.name.startswith(prefix)]) for name in METHODS]
        if any(flags for _, flags in rows):
            parts += [f"## {prefix.rstrip('.')}\n", table(rows)]
    return Page("reference/nerfstudio.md", "nerfstudio's own flags", "\n".join(parts))


def _datasets() -> Page:
    parts = [
        "# Formats of datasets\n",
        "The name of a format, and its flags behind it, end the line of `ns-train`: "
        "`ns-train source-splatfacto colmap --data DATA`. Without one, it is `nerfstudio-data`. An edit takes its "
        "dataset from the run that it begins with.\n",
    ]
    for name, flags in flags_of_datasets(METHODS["source-splatfacto"].config).items():
        parts += [f"## {name}\n", table([("", flags)])]
    return Page("reference/datasets.md", "Formats of datasets", "\n".join(parts))


@functools.cache
def _flags(method: str) -> Iterable[Flag]:
    return tuple(flags_of_method(METHODS[method].config))


def _family(method: str) -> str:
    return "splats" if method.endswith(("-splat", "splatfacto")) else "NeRFs"


def _first_sentence(kind: type) -> str:
    return " ".join(str(kind.__doc__).split("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."


def _paragraphs(text: Any) -> str:
    return "\n\n".join(" ".join(part.split()) for part in str(text).split("\n\n")) + "\n"
