"""Links lead somewhere, and every command line that a page shows is one that its command takes."""

import functools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from pds_nerfstudio import __version__
from pds_nerfstudio.cli import commands
from pds_nerfstudio.flags import flags_of, parser_of, tidied
from pds_nerfstudio.methods import METHODS

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "site"))

from links import is_outward, links, repository_path  # noqa: E402

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "docs/nerfstudio", "examples", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
)
LEFT_ALONE = ("pip", "ray", "ssh", "export", ".venv/bin/pre-commit", "#!/bin/bash")
"""What lines of pages begin with that is not this package's or nerfstudio's."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf8")


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", re.sub(r"^```.*?^```", "", markdown, flags=re.S | re.M), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = next((n for n in range(1, 100) if f"{slug}-{n}" not in found), 0) if slug in found else 0
        found.add(f"{slug}-{again}" if again else slug)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target in links(text_of(page)):
        if is_outward(target):
            continue
        path, anchor = repository_path(page, target)
        assert (ROOT / path).exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(text_of(path)), f"{target}: no such heading"


def blocks(text: str) -> Iterator[str]:
    """The lines of a page's shell code, each without the line breaks within it."""
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.S | re.M):
        yield from filter(str.strip, re.sub(r"\\\n", " ", block).splitlines())


def fragments(text: str) -> Iterator[str]:
    """Commands within sentences."""
    for code in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)):
        line = " ".join(code.split())
        if re.match(r"(pds|make|ns-\w+(-\w+)*|python) ", line):
            yield line


def words_of(line: str) -> list[str]:
    """A command line in words, without what its author left out or sends elsewhere."""
    words = shlex.split(re.sub(r"\$\w+", "1", re.sub(r" > \S+", "", line)), comments=True)
    words = words[1:] if words[:1] == ["srun"] else words
    left_out = [i for i, word in enumerate(words) if word == "…" and not words[i - 1].startswith("--")]
    return [word for i, word in enumerate(words) if i not in left_out]


BLOCKS = [(page, line) for page in PAGES for line in blocks(text_of(page))]
FRAGMENTS = [(page, line) for page in PAGES for line in fragments(text_of(page))]
EXAMPLES = [
    (path.relative_to(ROOT).as_posix(), line)
    for path in sorted((ROOT / "examples").glob("*.py"))
    for line in re.findall(r"^python .*", path.read_text(encoding="utf8"), re.M)
]


@pytest.mark.parametrize(("page", "line"), BLOCKS + EXAMPLES)
def test_a_command_line_is_taken_as_it_stands(page, line):
    words = words_of(line)
    if not words or words[0] in LEFT_ALONE:
        return
    program, arguments = words[0], words[1:]
    if "…" in shlex.split(line, comments=True):  # what is left out may be needed
        check_flags(words)
    elif program == "pds" and arguments[0] in commands():
        tyro.cli(commands()[arguments[0]], args=tidied(arguments[1:], "--"))
    elif program == "ns-train" and arguments != ["--help"]:
        config = METHODS[arguments[0]].config
        kind = tyro.conf.FlagConversionOff[type(config)]
        tyro.cli(kind, args=tidied(arguments[1:], "--pipeline."), default=config)
    elif program.startswith("ns-") and program != "ns-train":
        tyro.cli(nerfstudios(program), args=arguments)
    else:
        check_flags(words)


@pytest.mark.parametrize(("page", "line"), FRAGMENTS)
def test_a_command_in_a_sentence_exists_with_its_flags(page, line):
    check_flags(words_of(re.sub(r"\[(.*?)\]", "", line) if line.startswith("ns-train") else line))


@functools.cache
def flags_of_method(name: str) -> set[str]:
    return flags_of(parser_of(type(METHODS[name].config), METHODS[name].config))


def check_flags(words: list[str]) -> None:
    """Assert that there is such a command and that it has these flags, whatever their values are."""
    program, arguments = words[0], words[1:]
    flags = {word.partition("=")[0].removeprefix("--").replace("_", "-") for word in arguments if word[:2] == "--"}
    if program == "pds":
        own = next((word for word in arguments if not word.startswith("--")), None)
        if own in commands():
            known = flags_of(parser_of(commands()[own])) | {"from", "to", "src-prompt", "tgt-prompt"}
        else:
            known = {"version", "help", "tyro-print-completion"}
        assert flags <= known
    elif program == "ns-train":
        some = not arguments or "…" in arguments[0] or arguments[0] == "METHOD" or arguments[0].startswith("--")
        known = set().union(*(flags_of_method(name) for name in (METHODS if some else arguments[:1])))
        assert flags <= known | {"load-config", "help"}
    elif program == "make":
        targets = re.findall(r"^([\w ]+):(?!=)", text_of("Makefile"), re.M)
        assert arguments[0] in {name for target in targets for name in target.split()}
    elif program == "python":
        script = text_of(arguments[0])
        assert all(f"--{flag}" in script or flag.replace("-", "_") in script for flag in flags)
    else:
        tyro.extras.get_parser(nerfstudios(program))


def nerfstudios(program: str):
    """What nerfstudio's own commands parse their arguments into."""
    if program == "ns-export":
        from nerfstudio.scripts.exporter import Commands
    elif program == "ns-viewer":
        from nerfstudio.scripts.viewer.run_viewer import RunViewer as Commands
    elif program == "ns-process-data":
        from nerfstudio.scripts.process_data import Commands
    else:
        raise AssertionError(f"{program} is no command")
    return Commands


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    """Every flag of every command and method."""
    known = {"from", "to", "help", "version", "tyro-print-completion", "load-config"}
    for kind in commands().values():
        known |= flags_of(parser_of(kind))
    scripts = "".join(path.read_text(encoding="utf8") for path in (ROOT / "benchmarks").glob("*.py"))
    known |= {name.replace("_", "-") for name in re.findall(r"--([\w-]+)", scripts)}
    return known.union(*map(flags_of_method, METHODS))


@pytest.mark.parametrize("page", PAGES)
def test_a_flag_that_is_named_exists(page, known_flags):
    for code in re.findall(r"`(--[^`\n]+)`", text_of(page)):
        written = code.split()[0].partition("=")[0].rstrip(",.")
        if "…" not in written:
            assert written.removeprefix("--").replace("_", "-") in known_flags, written


def test_pages_are_found():
    assert {"README.md", "docs/start.md", "examples/README.md"} <= set(PAGES)
    assert len(BLOCKS) > 40
    assert len(FRAGMENTS) > 100
    assert EXAMPLES


def test_the_index_of_the_pages_names_them_all():
    named = {repository_path("docs/README.md", target)[0] for target in links(text_of("docs/README.md"))}
    assert {page for page in PAGES if page.startswith("docs/") and page != "docs/README.md"} <= named


def test_one_version_stands_everywhere():
    stated = (
        re.search(r'^version = "(.+)"', text_of("pyproject.toml"), re.M),
        re.search(r"^version: (.+)$", text_of("CITATION.cff"), re.M),
        re.search(r"^## \[(\d.+?)\]", text_of("CHANGELOG.md"), re.M),
    )
    assert {match and match[1] for match in stated} == {__version__}


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_files_of_the_repository_that_are_named_are_there(page):
    for written in re.findall(r"`([\w/]+/\w+\.(?:py|yaml|json|md))`", text_of(page)):
        made = written.startswith(("outputs/", "RUN/", "OUT/"))
        places = (ROOT, ROOT / "pds_nerfstudio", ROOT / "tests", (ROOT / page).parent)
        assert made or any((place / written).exists() for place in places), written


@pytest.mark.parametrize("page", PAGES)
def test_prose_has_at_most_a_hundred_characters_a_line(page):
    prose = re.sub(r"^```.*?^```|\$\$.*?\$\$", "", text_of(page), flags=re.S | re.M)
    long = [line for line in prose.splitlines() if len(line) > 100 and not line.lstrip().startswith(("|", "![", "#"))]
    assert not [line for line in long if "](" not in line and "`" not in line], long


@pytest.mark.parametrize("page", PAGES)
def test_no_line_begins_with_a_number_sign_by_accident(page):
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.S | re.M)
    assert re.findall(r"^#+[^#\s].*", prose, re.M) == []  # the site makes a heading of it


@pytest.mark.parametrize("page", ["README.md", "docs/nerfstudio/pds.md"])
def test_every_method_is_in_the_table(page):
    assert {name for name in METHODS if f"`{name}`" not in text_of(page)} == set()
