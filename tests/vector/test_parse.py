"""Reading SVG files: what is refused in one sentence, what is named, what is understood."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.vector import document, parse, read_drawing, render

from .drawings import svg

SHAPE = "<path id='hat' d='M10 10H90V90Z'/>"
BOMB = (
    "<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a 'haha'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>"
    "<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]>" + svg(f"<title>&c;</title>{SHAPE}")
)
OUTSIDE = "<!DOCTYPE svg [<!ENTITY secret SYSTEM 'file:///etc/passwd'>]>" + svg(f"<title>&secret;</title>{SHAPE}")


@pytest.fixture
def read(tmp_path):
    def reader(text: str):
        path = tmp_path / "drawing.svg"
        path.write_text(text)
        return read_drawing(path)

    return reader


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read as XML"),
        ("<svg", "cannot be read as XML"),
        ("<html/>", "is no SVG"),
        ("<svg viewBox='0 0 9 9'/>", "is no SVG"),  # without its namespace
        (BOMB, "declares XML entities"),
        (OUTSIDE, "declares XML entities"),
        (svg(""), "no path or shape"),
        (svg("<text>words</text>"), "no path or shape"),
        (svg("<path d='M1 1'/><rect width='0' height='5'/>"), "no path or shape"),
        (svg(f"<g display='none'>{SHAPE}</g>"), "no path or shape"),
        (svg(f"<g filter='url(#f)'>{SHAPE}</g>"), "under filters.*without its filter"),
        (svg(SHAPE, "viewBox='0 0 9 9' clip-path='url(#c)'"), "clip paths.*All of it is left as it is"),
        (svg("<path d='M0 0 X5 5'/>"), "no path or shape.*<path> number 1 is left as it is"),
        (svg(SHAPE, ""), "neither a viewBox"),
        (svg(SHAPE, "width='100%' height='100%'"), "neither a viewBox"),
        (svg(SHAPE, "viewBox='0 0 0 100'"), "no area"),
        (svg(SHAPE, "viewBox='0 0 -5 100'"), "no area"),
        (svg(SHAPE, "width='0' height='0' viewBox='0 0 5 5'"), "no area"),
        (svg(SHAPE, "viewBox='0 0 1e999 100'"), "no area"),
        (svg(SHAPE, "viewBox='0 0 100'"), "four numbers"),
        (svg(SHAPE, "width='wide' height='100'"), "width of 'wide'"),
        (svg(SHAPE, "viewBox='0 0 1000 10'"), "8 times the other"),
        (svg("<path d='M0 0 L1e9 5 L3 3Z'/>"), "100000 pixels"),
        (svg("<path d='M0 0 L1e999 5 L3 3Z'/>"), "100000 pixels"),
        (svg(f"<g transform='scale(1e300)'>{SHAPE}</g>"), "pixels|no path"),
        (svg(10_000 * SHAPE), "10000 shapes, more than 5000"),
        (svg(101 * "<g>" + SHAPE + 101 * "</g>"), "100 deep"),
    ],
)
def test_what_cannot_be_edited_is_one_sentence(read, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read(text)


def test_a_missing_and_a_huge_file_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no file"):
        read_drawing(tmp_path / "gone.svg")
    (tmp_path / "large.svg").write_text(svg(SHAPE))
    monkeypatch.setattr(document, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="0 MB: simplify"):
        read_drawing(tmp_path / "large.svg")
    monkeypatch.undo()
    monkeypatch.setattr(parse, "MOST_SEGMENTS", 1)
    with pytest.raises(UserError, match="more than 1 segments"):
        read_drawing(tmp_path / "large.svg")


@pytest.mark.parametrize(
    ("body", "remark"),
    [
        ("<text id='sign'>words</text>", "<text> 'sign' is left as it is"),
        ("<image href='data:image/png;base64,AAAA' width='5' height='5'/>", "<image> number 1 is left as it is"),
        ("<use href='#hat' x='5'/>", "<use> number 1 is left"),
        ("<svg viewBox='0 0 5 5'><rect width='5' height='5'/></svg>", "<svg> number 1 is left"),
        ("<script>alert(1)</script>", "never run"),
        ("<rect onclick='alert(1)' width='5' height='5'/>", "onclick, which is never run"),
        ("<image href='https://example.org/a.png' width='5' height='5'/>", "not fetched"),
        ("<rect width='5' height='5' style='fill:url(https://example.org/a.svg#b)'/>", "not fetched"),
        ("<circle id='glow' r='5' filter='url(#f)'/>", "'glow' is left as it is, and drawn here without its filter"),
        ("<circle r='5' mask='url(#m)'/>", "without its mask"),
        ("<circle r='5' stroke='red' stroke-dasharray='2 1'/>", "without its dashes"),
        ("<path d='M0 0h5' stroke='red' marker-end='url(#m)'/>", "without its markers"),
        ("<pattern id='p'/><circle id='dots' r='5' fill='url(#p)'/>", "'dots' is left as it is.*a pattern"),
        ("<path id='odd' d='M0 0 X5 5'/>", "'odd' is left as it is"),
        ("<circle id='odd' r='much'/>", "'odd' is left as it is.*'much' is no length"),
        ("<circle id='odd' r='5' fill='sky-ish'/>", "'odd' is left as it is"),
        ("<circle id='odd' r='5' transform='wobble(3)'/>", "'odd' is left as it is.*no transform"),
        ("<style>g > path { fill: red }</style>", "Style rules for g > path"),
        ("<style>@media print { path { fill: red } }</style>", "Style rules for @media"),
        ("<style media='print'>path { fill: red }</style>", "Style rules for @media print"),
        ("<rect id='odd' width='9' height='9' transform='rotate(9)' transform-origin='4 4'/>", "'odd' is left.*origin"),
        (
            "<rect id='odd' width='9' height='9' transform='scale(2)' style='transform:none;rotate:9deg'/>",
            "'odd' is left",
        ),
        ("<style>.c{r:8px}</style><circle id='odd' class='c'/>", "'odd' is left.*its r stands in its style"),
        ("<path d='M0 0h5' stroke='red' vector-effect='non-scaling-stroke'/>", "a stroke that scales"),
        ("<path d='M0 0h5' stroke='red' style='marker:url(#m)'/>", "without its markers"),
    ],
)
def test_what_is_not_supported_is_named_and_the_rest_is_read(read, body, remark):
    import re

    drawing = read(svg(body + SHAPE))
    assert any(re.search(remark, sentence) for sentence in drawing.remarks), drawing.remarks
    assert any(origin.name == "<path> 'hat'" for origin in drawing.origins)


def test_nothing_is_opened_but_the_file_itself(read, monkeypatch):
    """Whatever the file refers to: no socket and no other file."""
    import socket

    def refused(*_arguments, **_options):
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket, "socket", refused)
    body = (
        "<image href='https://example.org/a.png' width='5' height='5'/><use href='file:///etc/passwd#a'/>"
        "<style>@import url('https://example.org/a.css');</style><script href='https://example.org/a.js'/>"
    )
    drawing = read("<?xml-stylesheet href='https://example.org/b.css'?>" + svg(body + SHAPE))
    assert len([remark for remark in drawing.remarks if "not fetched" in remark]) == 4


@pytest.mark.parametrize(
    ("sheet", "style", "colour"),
    [
        ("path{fill:#00f}", "", "blue"),
        ("path{fill:#00f} @media (prefers-color-scheme: dark){path{fill:#f00}}", "", "blue"),
        ("@charset 'utf-8'; @import url(a.css); path{fill:#00f}", "", "blue"),
        ("path{fill:#00f!important}", "fill:red", "blue"),
        ("path{fill:red!important}", "fill:#00f ! important", "blue"),
        ("path{fill:red}", "--x:url(data:a;b);fill:#00f", "blue"),
        ("#hat{fill:#00f} path, a:is(b, c){fill:red}", "", "blue"),
        ("path{fill:red} svg{fill:#00f}", "fill:inherit", "blue"),
        ("", "FILL:Blue;Stroke:NONE", "blue"),
    ],
)
def test_styles_mean_what_css_means(read, sheet, style, colour):
    from PIL import ImageColor

    drawing = read(svg(f"<style>{sheet}</style><path id='hat' d='M10 10H90V90Z' style='{style}'/>"))
    assert (drawing.source.colours[0] * 255).tolist() == list(ImageColor.getrgb(colour))


def test_the_opacity_of_the_outermost_element_is_seen(read):
    """As that of a group."""
    for opacity, brightness in ((".25", 0.75), ("much", 0)):
        drawing = read(svg("<rect width='100' height='100'/>", f"viewBox='0 0 100 100' opacity='{opacity}'"))
        assert render(drawing, drawing.source, 8, 8).mean() == pytest.approx(brightness, abs=1e-3)
    assert any("'much' is no length" in remark for remark in drawing.remarks)


def test_elements_under_an_effect_are_drawn_and_not_edited(read):
    drawing = read(svg(f"<g clip-path='url(#c)'><circle r='50' fill='red' stroke='blue'/></g>{SHAPE}"))
    assert render(drawing, drawing.source, 32, 32)[0, 2, 2, 2] < 0.1
    assert drawing.editable["points"][:, 0].tolist() == 12 * [0] + 3 * [1]
    assert drawing.editable["colours"][:, 0].tolist() == [0, 0, 1]
    assert drawing.editable["opacities"].tolist() == [0, 0, 1]
    assert drawing.editable["widths"].tolist() == [0]
    assert [origin.name for origin in drawing.origins] == ["<path> 'hat'"]


def test_points_are_in_pixels_of_the_canvas_whatever_stands_above_them(read):
    plain = read(svg("<path d='M20 30L80 30L50 90Z'/>"))
    nested = read(
        svg(
            "<g transform='translate(1 2)'><path transform='rotate(90) scale(.01)' d='M2 -1L8 -1L5 -7Z'/></g>",
            "viewBox='0.98 2.02 1 1' width='50' height='50'",
        )
    )
    assert plain.source.points.abs().max() == pytest.approx(0.9 * 512)
    assert nested.width == nested.height == 512
    assert nested.source.points.shape == plain.source.points.shape


def test_the_end_of_a_closed_path_is_its_start(read):
    """So that an edit cannot tear the two apart."""
    drawing = read(svg("<path d='M10 10 L90 10 L50 80 L10 10 Z'/>"))
    assert len(drawing.source.points) == 3
    assert drawing.outlines.points[-1, 1] == drawing.outlines.points[0, 0]


NUMBERS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
"""How many numbers each command of a path takes."""
NUMBER = st.sampled_from(["0", "1", ".5", "-3", "40", "90", "1e1", "1e9"])
COMMAND = st.sampled_from(sorted(NUMBERS)).flatmap(
    lambda letter: st.builds(
        lambda numbers, lower: " ".join([letter.lower() if lower else letter, *numbers]),
        st.lists(NUMBER, min_size=NUMBERS[letter], max_size=NUMBERS[letter]),
        st.booleans(),
    )
)
PATHS = st.lists(COMMAND, max_size=6).map(lambda commands: " ".join(["M10 10", *commands]))
ANY_TEXT = st.text(alphabet="MmLlHhVvCcSsQqTtAaZz0123456789.,- e", max_size=40)


@settings(max_examples=60)
@given(PATHS | ANY_TEXT)
def test_any_path_is_read_named_or_refused(tmp_path_factory, text):
    """Never with another exception, and what is read can be rendered."""
    path = tmp_path_factory.getbasetemp() / "any.svg"
    path.write_text(svg(f"<path d='{text}'/>{SHAPE}"))
    try:
        drawing = read_drawing(path)
    except UserError:
        return
    assert render(drawing, drawing.source, 16, 16).isfinite().all()
    assert torch.isfinite(drawing.source.points).all()
