"""Writing edited drawings back into their own files."""

import re
from pathlib import Path

import pytest
import torch
from defusedxml import ElementTree

from pds_nerfstudio.vector import read_drawing, render, write_drawing

from .drawings import DRAWINGS, svg

FILE = """<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
     xmlns:inkscape="http://www.inkscape.org/namespaces/inkscape" viewBox="0 0 100 100">
  <!-- the sky -->
  <style>.leaf { fill: green }</style>
  <defs><linearGradient id="g">
    <stop offset="0" stop-color="red"/><stop offset="1" style="stop-color:blue"/>
  </linearGradient></defs>
  <g id="all" inkscape:label="everything" fill="orange" transform="rotate(10 50 50)">
    <rect id="sky" width="90" height="40" rx="3" fill="url(#g)" stroke="black" stroke-width="2"/>
    <text id="sign" x="5" y="5">words</text>
    <g id="inner" opacity="0.5"><circle id="sun" cx="70" cy="20" r="9"/></g>
    <path id="leaf" class="leaf" d="m 20 60 q 10 -20 20 0 t 20 0 v 20 h -40 z"/>
    <ellipse id="styled" cx="20" cy="80" rx="9" ry="4" style="fill:#123456;stroke:none"/>
    <use id="again" xlink:href="#sun" x="-30"/>
  </g>
</svg>
"""


@pytest.fixture
def drawing(tmp_path):
    (tmp_path / "file.svg").write_text(FILE)
    return read_drawing(tmp_path / "file.svg")


def moved(drawing, points: float = 3.0):
    """Everything changed a little."""
    generator = torch.Generator().manual_seed(0)
    values = drawing.source.map(lambda value: value + 0.1 * torch.rand(value.shape, generator=generator))
    values.points.add_(points * torch.randn(values.points.shape, generator=generator))
    values.clamp_()
    values.opacities.mul_(0.8)
    return values


def ids(path: Path) -> list[str]:
    return re.findall(r' id="([^"]*)"', path.read_text())


@pytest.mark.parametrize("name", DRAWINGS)
def test_what_is_written_is_what_was_rendered(tmp_path, name):
    """Read again, the edited file gives the edited picture: transforms, styles, gradients and all."""
    (tmp_path / "in.svg").write_text(DRAWINGS[name])
    drawing = read_drawing(tmp_path / "in.svg")
    values = moved(drawing)
    write_drawing(drawing, values, tmp_path / "out.svg")
    again = read_drawing(tmp_path / "out.svg")
    expected, found = (render(d, v, 96, 96) for d, v in ((drawing, values), (again, again.source)))
    assert (found - expected).abs().mean() < 1e-3
    assert (found - expected).abs().max() < 0.06
    assert not torch.allclose(found, render(drawing, drawing.source, 96, 96), atol=0.02)


def test_without_a_change_every_element_stays_as_it_is(drawing, tmp_path):
    write_drawing(drawing, drawing.source, tmp_path / "out.svg")
    before, after = (list(ElementTree.parse(path).iter()) for path in (tmp_path / "file.svg", tmp_path / "out.svg"))
    assert [(e.tag, e.attrib, e.text) for e in before] == [(e.tag, e.attrib, e.text) for e in after]


def test_ids_groups_and_order_stay_and_the_rest_is_untouched(drawing, tmp_path):
    out = tmp_path / "out.svg"
    write_drawing(drawing, moved(drawing), out)
    assert ids(out) == ids(tmp_path / "file.svg")
    text = out.read_text()
    assert "<!-- the sky -->" in text
    assert 'inkscape:label="everything"' in text
    assert 'transform="rotate(10 50 50)"' in text
    assert '<text id="sign" x="5" y="5">words</text>' in text
    assert '<use id="again" xlink:href="#sun" x="-30" />' in text
    nesting = {e.get("id"): [c.get("id") for c in e] for e in ElementTree.parse(out).iter() if e.get("id") == "all"}
    assert nesting == {"all": ["sky", "sign", "inner", "leaf", "styled", "again"]}


def test_a_basic_shape_becomes_a_path_of_its_own_name(drawing, tmp_path):
    write_drawing(drawing, moved(drawing), tmp_path / "out.svg")
    elements = {e.get("id"): e for e in ElementTree.parse(tmp_path / "out.svg").iter()}
    sun = elements["sun"]
    assert sun.tag.endswith("path")
    assert sun.get("d").count("C") == 4
    assert not {"cx", "cy", "r"} & set(sun.keys())


def test_segments_keep_their_kinds(drawing, tmp_path):
    write_drawing(drawing, moved(drawing), tmp_path / "out.svg")
    elements = {e.get("id"): e for e in ElementTree.parse(tmp_path / "out.svg").iter()}
    assert re.sub(r"[^A-Z]", "", elements["leaf"].get("d")) == "MQQLLZ"


def test_colours_go_where_they_win(drawing, tmp_path):
    """Over a style sheet, in the style that had them, without touching the group that gave them to others."""
    write_drawing(drawing, moved(drawing), tmp_path / "out.svg")
    elements = {e.get("id"): e for e in ElementTree.parse(tmp_path / "out.svg").iter()}
    assert elements["all"].get("fill") == "orange"
    assert "fill:#" in elements["sun"].get("style")
    assert "fill:#" in elements["leaf"].get("style")
    assert re.fullmatch(r"fill:#[0-9a-f]{6};stroke:none;fill-opacity:[\d.]+", elements["styled"].get("style"))
    assert elements["sky"].get("fill") == "url(#g)"
    assert re.fullmatch("#[0-9a-f]{6}", elements["sky"].get("stroke"))


def test_coordinates_are_as_fine_as_the_canvas_needs(tmp_path):
    """In a user space of a thousandth, six digits; in one of a thousand, none too many."""
    for span in (0.01, 100_000):
        (tmp_path / "in.svg").write_text(
            svg(f"<path d='M0 0H{span / 2}V{span / 3}Z'/>", f"viewBox='0 0 {span} {span}'")
        )
        drawing = read_drawing(tmp_path / "in.svg")
        values = drawing.source.map(lambda value: value + 0.1)
        write_drawing(drawing, values, tmp_path / "out.svg")
        again = read_drawing(tmp_path / "out.svg").source.points
        torch.testing.assert_close(again, values.points, atol=2e-3, rtol=0)


def test_what_stands_around_the_outermost_element_stays(tmp_path):
    around = (
        '<?xml-stylesheet href="a.css"?>\n<!--© somebody-->',
        '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">',
        "<!-- the end -->",
    )
    drawn = svg("<circle r='5'/>")
    (tmp_path / "in.svg").write_text(f"{around[1]}{around[0]}{drawn}{around[2]}", "utf-8")
    write_drawing(drawing := read_drawing(tmp_path / "in.svg"), moved(drawing), tmp_path / "out.svg")
    text = (tmp_path / "out.svg").read_text("utf-8")
    first, doctype, sheet, licence, *_, end = text.splitlines()
    assert (doctype, f"{sheet}\n{licence}", end) == (around[1], *around[::2])
    assert first.startswith("<?xml ")
    assert read_drawing(tmp_path / "out.svg").remarks == drawing.remarks


def test_a_style_keeps_what_else_it_says(tmp_path):
    """Whatever it holds; and a colour wins over the rule that gave it."""
    style = "--Mixed:url(data:image/png;base64,AAAA);fill:#f00 !important;cursor:url(data:image/png;base64,BB),auto"
    body = f"<style>.c{{fill:blue!important}}</style><circle r='50' style='{style}'/><circle class='c' cy='90' r='9'/>"
    (tmp_path / "in.svg").write_text(svg(body))
    write_drawing(drawing := read_drawing(tmp_path / "in.svg"), moved(drawing), tmp_path / "out.svg")
    first, second = (e.get("style") for e in ElementTree.parse(tmp_path / "out.svg").iter() if e.tag.endswith("path"))
    kept, cursor, opacity = style.split(";fill:#f00 !important;")[0], style[style.index(";cursor") :], ";fill-opacity:"
    assert re.fullmatch(f"{re.escape(kept)};fill:#[0-9a-f]{{6}} !important{re.escape(cursor + opacity)}[\\d.]+", first)
    assert re.match("fill:#[0-9a-f]{6} !important;", second)
