"""User text reaches the reader as it is, whatever it means in markup."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from rich.table import Table

from pds_nerfstudio.text import choices, in_markdown, in_rich, meant, visible

HOSTILE = (
    "a [/x] ball",
    "[/]",
    "[bold]loud[/bold]",
    "[link=file:///etc/passwd]here[/link]",
    "ends in a backslash \\",
    "two \\\\",
    "\\[bold]",
    "[",
    ":smile:",
    "![x](/dev/zero)",
    "![x](/etc/hostname)",
    "<img src=x onerror=alert(1)>",
    "[link](javascript:alert(1))",
    "# heading",
    "a\n\n- list",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eright to left",
    "null\0",
    "$x$ **bold** _it_ `code` ~~no~~",
    "&lt;b&gt;",
    "http://example.com",
)


def printed(markup: str) -> str:
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    console.print(markup, soft_wrap=True, highlight=False)
    return console.file.getvalue().rstrip("\n")  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("text", HOSTILE)
def test_rich_prints_text_as_it_is(text):
    assert printed(in_rich(text)) == visible(text)
    assert printed(f"[bold]{in_rich(text)}[/] end") == f"{visible(text)} end"


@given(st.text())
def test_rich_prints_any_text_as_it_is(text):
    assert printed(f"[bold]“{in_rich(text)}”[/] end") == f"“{visible(text)}” end"


@given(st.text())
def test_no_control_character_reaches_a_terminal(text):
    assert visible(text).isprintable()


def shown(markdown: str) -> str:
    """The text that a page shows: no tags, entities resolved."""
    import html

    rendered = MarkdownIt("commonmark", {"html": True}).render(markdown)
    assert re.fullmatch(r"(<p>[^<]*</p>\n)?", rendered), rendered
    return html.unescape(rendered.removeprefix("<p>").removesuffix("</p>\n"))


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_text_as_it_is(text):
    assert shown(in_markdown(text)) == visible(text)


@given(st.text())
def test_markdown_shows_any_text_as_it_is(text):
    assert shown(in_markdown(text)) == visible(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_visers_own_reading_of_pictures_finds_none(text):
    assert not re.search(r"\!\[([^]]*)\]\(([^]]*)\)", in_markdown(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_tables_title_and_cells_show_text_as_it_is(text):
    table = Table("a", title=f"“{in_rich(text)}”", width=200)
    table.add_row(in_rich(text))
    console = Console(file=io.StringIO(), width=300, color_system=None)
    console.print(table)
    assert console.file.getvalue().count(visible(text)) == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_a_mistyped_name_is_answered_by_the_one_that_was_meant():
    assert meant("toyboks", ["toybox", "toybox-flow"]) == "toybox"
    assert meant("pnr", ["pds-edit", "pnr-edit"]) == "pnr-edit"
    assert meant("nowhere", ["toybox", "toybox-flow"]) == ""
    assert choices("colours", ["colour", "style"]) == "did you mean colour? Otherwise choose among colour, style."
    assert choices("zebra", ["quick", "quality"]) == "choose among quick, quality."
