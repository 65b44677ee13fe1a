"""Which properties an element has: attributes, over them style sheets, over them its own style, and over all of that
what is !important; else its parent's."""

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element

from pds_nerfstudio.vector.styles import Declared, declarations, matches, style_rules

INHERITED = {
    "fill": "black",
    "stroke": "none",
    "fill-opacity": "1",
    "stroke-opacity": "1",
    "stroke-width": "1",
    "fill-rule": "nonzero",
    "stroke-linecap": "butt",
    "stroke-linejoin": "miter",
    "stroke-miterlimit": "4",
    "stroke-dasharray": "none",
    "color": "black",
    "visibility": "visible",
    "marker-start": "none",
    "marker-mid": "none",
    "marker-end": "none",
    "marker": "none",
}
OWN = {
    "opacity": "1",
    "display": "inline",
    "filter": "none",
    "mask": "none",
    "clip-path": "none",
    "stop-color": "black",
    "stop-opacity": "1",
    "mix-blend-mode": "normal",
    "transform": "none",
    "translate": "none",
    "rotate": "none",
    "scale": "none",
    "transform-origin": "0 0",
    "transform-box": "view-box",
    "vector-effect": "none",
    "paint-order": "normal",
}
EFFECTS = ("filter", "mask", "clip-path", "mix-blend-mode")
"""Under which a shape is drawn as if there were none, and left as it is."""
MOVES = ("transform", "translate", "rotate", "scale")
"""Properties that as attributes are read by others, or are none."""
GEOMETRY = {
    "path": ("d",),
    "rect": ("x", "y", "width", "height", "rx", "ry"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
"""Attributes of an element that a style may give instead, and then wins."""


class Cascade:
    """The style sheets of a document, applied to its elements."""

    def __init__(self, root: Element):
        self.rules, others = style_rules(root)
        self.others = list(dict.fromkeys(others))
        """Selectors that are not applied."""

    def given(self, element: Element) -> list[Mapping[str, Declared]]:
        """What style sheets and its own style say of an element, weakest first."""
        rules = [rule for _, selector, rule in self.rules if matches(selector, element)]
        return [*rules, declarations(element.get("style", ""))]

    def rules_give(self, element: Element, name: str) -> Declared | None:
        """What style sheets have to say about a property of this element, if anything."""
        said = [rule[name] for *rules, _own in [self.given(element)] for rule in rules if name in rule]
        return max(said, key=lambda declared: declared.important, default=None)

    def shapes(self, element: Element, tag: str) -> list[str]:
        """The parts of its geometry that stand in styles."""
        given = self.given(element)
        return [name for name in GEOMETRY.get(tag, ()) if any(name in declared for declared in given)]

    def style(self, element: Element, inherited: dict[str, str]) -> dict[str, str]:
        """Every property of an element, by name; of a `transform`, only one that stands in a style."""
        style = inherited | OWN
        attributes = {key: Declared(value) for key, value in element.attrib.items() if key not in MOVES}
        given = [attributes, *self.given(element)]
        for important in (False, True):
            for declared in given:
                for name, (value, is_important) in declared.items():
                    if name in style and is_important == important:
                        style[name] = inherited.get(name, style[name]) if value.lower() == "inherit" else value
        return style


def effects_of(style: dict[str, str]) -> list[str]:
    """Those that a style puts over an element."""
    return [effect for effect in EFFECTS if style[effect].lower() not in ("none", "normal")]


def turns_about_the_corner(style: dict[str, str]) -> bool:
    """Whether a transform turns and scales about the origin of its user space."""
    lengths = [word for word in style["transform-origin"].lower().split() if word not in ("left", "top")]
    origin = all(re.fullmatch(r"0+(\.0*)?(%|[a-z]+)?", word) for word in lengths)
    return origin and style["transform-box"] == "view-box"
