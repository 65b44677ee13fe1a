"""The site of docs/: it builds without a warning, needs no network, and its reference is what the parsers say."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pds_nerfstudio.cli import commands
from pds_nerfstudio.flags import flags_of, parser_of
from pds_nerfstudio.methods import METHODS

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "site"))

import reference  # noqa: E402

HELP = {"help", "-h"}


class Loaded(HTMLParser):
    """What a page loads, not what it links to."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        if tag in ("script", "img", "iframe") or (tag == "link" and own.get("rel") != "canonical"):
            self.addresses += [own[name] for name in ("src", "href") if own.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does: a warning, such as a broken link, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_no_page_loads_anything_from_the_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf8"))
        assert not [address for address in loaded.addresses if re.match(r"(https?:)?//", address)], page


def test_formulas_are_drawn_without_a_script(site):
    page = (site / "mathematics.html").read_text(encoding="utf8")
    assert page.count("<math") >= 19
    assert "arithmatex" not in page


def fixed(parser) -> set[str]:
    """Flags that name a class of nerfstudio's and take no value."""
    found = set()
    for action in parser._actions:
        if action.metavar == "{fixed}":
            found |= {name.removeprefix("--").replace("_", "-") for name in action.option_strings}
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                found |= fixed(below)
    return found


def listed(markdown: str) -> set[str]:
    """The flags that tables of the reference list, with dashes."""
    rows = [line.split(" | ")[0] for line in markdown.splitlines() if line.startswith("| `")]
    return {name.replace("_", "-") for row in rows for name in re.findall(r"`--?([^`]+)`", row)}


def page_of(name: str) -> reference.Page:
    wanted = "sources" if name.startswith("source-") else name.removesuffix("-splat")
    return next(page for page in reference.pages() if page.path == f"reference/{wanted}.md")


def by_path(path: str) -> reference.Page:
    return next(page for page in reference.pages() if page.path == path)


def without_negations(flags: set[str]) -> set[str]:
    """ns-train has no --no-flag: what it switches takes True or False."""
    return {flag for flag in flags if flag.replace("no-", "", 1) not in flags or "no-" not in flag}


@pytest.mark.parametrize("name", METHODS)
def test_every_flag_of_a_method_is_in_the_reference(name):
    parser = parser_of(type(METHODS[name].config), METHODS[name].config)
    wanted = without_negations(flags_of(parser)) - fixed(parser) - HELP
    pages = (page_of(name), by_path("reference/nerfstudio.md"), by_path("reference/datasets.md"))
    assert wanted - set().union(*(listed(page.markdown) for page in pages)) == set()


def test_the_reference_of_the_methods_lists_no_other_flags():
    known = set()
    for method in METHODS.values():
        known |= flags_of(parser_of(type(method.config), method.config))
    for page in reference.pages():
        if page.path != "reference/commands.md":
            assert listed(page.markdown) <= known, page.path


def test_the_page_of_a_pair_of_methods_lists_their_flags_alone():
    for name in METHODS:
        if not name.endswith(("-splat", "-splatfacto")):
            twin = "source-splatfacto" if name == "source-nerfacto" else f"{name}-splat"
            both = [METHODS[one].config for one in (name, twin)]
            assert listed(page_of(name).markdown) <= set().union(*(flags_of(parser_of(type(c), c)) for c in both))


@pytest.mark.parametrize("name", commands())
def test_the_flags_of_a_command_are_those_in_the_reference(name):
    section = by_path("reference/commands.md").markdown.split(f"## pds {name}\n")[1].split("\n## ")[0]
    assert listed(section) == flags_of(parser_of(commands()[name])) - HELP


def test_rows_say_ranges_defaults_and_whose_a_flag_is():
    page = page_of("pnr-edit").markdown
    (eta,) = (line for line in page.splitlines() if line.startswith("| `--pipeline.eta-max`"))
    assert "number; ≥ 0, ≤ 1" in eta
    (opacity,) = (line for line in page.splitlines() if line.startswith("| `--pipeline.eta-opacity`"))
    assert "| `0.8` |" in opacity
    assert opacity.endswith("*(splats only)* |")
