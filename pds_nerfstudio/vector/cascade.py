"""Which properties an element has: attributes, over them style sheets, over them its own style; else its parent's."""

from xml.etree.ElementTree import Element

from pds_nerfstudio.vector.attributes import declarations, matches, style_rules

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
    "paint-order": "normal",
}


class Cascade:
    """The style sheets of a document, applied to its elements."""

    def __init__(self, root: Element):
        self.rules, others = style_rules(root)
        self.others = list(dict.fromkeys(others))
        """Selectors that are not applied."""

    def rules_give(self, element: Element, name: str) -> bool:
        """Whether a style sheet has something to say about a property of this element."""
        return any(name in rule and matches(selector, element) for _, selector, rule in self.rules)

    def style(self, element: Element, inherited: dict[str, str]) -> dict[str, str]:
        """Every property of an element, by name; of a `transform`, only one that stands in a style."""
        style = inherited | OWN
        given = [{key: value for key, value in element.attrib.items() if key != "transform"}]
        given += [rule for _, selector, rule in self.rules if matches(selector, element)]
        given.append(declarations(element.get("style", "")))
        for declared in given:
            style |= {key: value for key, value in declared.items() if key in style and value != "inherit"}
        return style
