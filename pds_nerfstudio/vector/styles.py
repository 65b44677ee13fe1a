"""CSS in SVG: `style` attributes and the simplest style sheets, read by tinycss2."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import tinycss2

SEEN = ("all", "screen")
"""Media that a picture is drawn for."""


class Declared(NamedTuple):
    """What a property is set to."""

    value: str
    important: bool = False


Declarations = dict[str, Declared]
"""By the names of properties."""
Rules = list[tuple[int, str, Declarations]]
"""Specificity, simple selector (`tag`, `.class`, `#id` or `*`) and declarations, weakest first."""


def declarations(text: str | Sequence[Any]) -> Declarations:
    """`name: value; …` of a `style` attribute or a rule; what cannot be read is left out, as browsers do."""
    declared: Declarations = {}
    for node in tinycss2.parse_blocks_contents(text, skip_comments=True, skip_whitespace=True):
        if node.type == "declaration" and (node.important or not declared.get(node.lower_name, Declared("")).important):
            declared[node.lower_name] = Declared(tinycss2.serialize(node.value).strip(), node.important)
    return declared


def with_declaration(text: str, name: str, value: str, important: bool = False) -> str:
    """A `style` attribute in which a property has this value, and is no less important than it was; the rest stays."""
    before = declarations(text).get(name)
    declared = f"{name}:{value}{' !important' if important or (before and before.important) else ''}"
    parts = [tinycss2.serialize(part).strip() for part in _divided(tinycss2.parse_component_value_list(text), ";")]
    if before is None:
        parts.append(declared)
    return ";".join(declared if name in declarations(part) else part for part in parts if part)


def style_rules(root: Element) -> tuple[Rules, list[str]]:
    """The rules of all `<style>` elements that have simple selectors, and the selectors and at-rules that are left."""
    rules, others = [], []
    for element in root.iter():
        if not isinstance(element.tag, str) or element.tag.rpartition("}")[2] != "style":
            continue
        media = element.get("media", "all").strip()
        if not any(re.search(rf"\b{word}\b", media) for word in SEEN) and media:
            others.append(f"@media {media}")
            continue
        for node in tinycss2.parse_stylesheet("".join(element.itertext()), skip_comments=True, skip_whitespace=True):
            if node.type == "at-rule":
                others.append(f"@{node.at_keyword}")
            elif node.type == "qualified-rule":
                declared = declarations(node.content)
                for part in _divided(node.prelude, ","):
                    selector = tinycss2.serialize(part).strip()
                    if re.fullmatch(r"[.#]?[\w-]+|\*", selector):
                        rules.append(({".": 1, "#": 2}.get(selector[0], 0), selector, declared))
                    else:
                        others.append(selector)
    rules.sort(key=lambda rule: rule[0])
    return rules, others


def matches(selector: str, element: Element) -> bool:
    """Whether a simple selector names this element."""
    if selector[0] == ".":
        return selector[1:] in element.get("class", "").split()
    if selector[0] == "#":
        return selector[1:] == element.get("id")
    return selector in ("*", element.tag.rpartition("}")[2])


def _divided(tokens: Sequence[Any], by: str) -> list[list[Any]]:
    """The tokens between those that are `by`; within strings, brackets and url() there are none."""
    parts: list[list[Any]] = [[]]
    for token in tokens:
        if token.type == "literal" and token.value == by:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
