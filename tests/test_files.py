"""What is written between the marks of a Markdown file."""

import pytest

from pds_nerfstudio.files import fill_in


def test_only_what_is_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\nlines\n<!-- /x -->\nb <!-- y --> c <!-- /y -->\n")
    fill_in(page, "x", r"| \1 |")
    assert page.read_text() == "a\n<!-- x -->\n| \\1 |\n<!-- /x -->\nb <!-- y --> c <!-- /y -->\n"


def test_a_page_without_the_marks_stays_and_says_so(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a")
    with pytest.raises(ValueError, match="no place for the table"):
        fill_in(page, "x", "b")
    assert page.read_text() == "a"
