"""CSS in SVG: `style` attributes and the simplest style sheets, read by tinycss2."""

import functools
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import tinycss2


class Declared(NamedTuple):
    """What a property is set to."""

    value: str
    important: bool = False


Rules = list[tuple[int, str, Mapping[str, Declared]]]
"""Specificity, simple selector (`tag`, `.class`, `#id` or `*`) and declarations, weakest first."""


@functools.lru_cache(1 << 14)
def declarations(text: str) -> Mapping[str, Declared]:
    """`name: value; …` of a `style` attribute or a rule; what cannot be read is left out, as browsers do."""
    declared: dict[str, Declared] = {}
    for node in tinycss2.parse_blocks_contents(text, skip_comments=True, skip_whitespace=True):
        if node.type == "declaration" and (node.important or not declared.get(node.lower_name, Declared("")).important):
            declared[node.lower_name] = Declared(tinycss2.serialize(node.value).strip(), node.important)
    return MappingProxyType(declared)


def with_declaration(text: str, name: str, value: str, important: bool = False) -> str:
    """A `style` attribute in which a property has this value, and is no less important than it was; the rest stays."""
    before = declarations(text).get(name)
    declared = f"{name}:{value}{' !important' if important or (before and before.important) else ''}"
    if before is None:
        return ";".join(filter(None, [text.strip().rstrip(";").rstrip(), declared]))
    parts = [tinycss2.serialize(part).strip() for part in _divided(tinycss2.parse_component_value_list(text), ";")]
    return ";".join(declared if name in declarations(part) else part for part in parts if part)


def style_rules(root: Element) -> tuple[Rules, list[str]]:
    """The rules of all `<style>` elements that have simple selectors, and the selectors and at-rules that are left."""
    rules, others = [], []
    for element in root.iter():
        if not isinstance(element.tag, str) or element.tag.rpartition("}")[2] != "style":
            continue
        media = element.get("media", "").lower()
        if media and all(re.match(r"\s*(print|speech|not)\b", query) for query in media.split(",")):
            others.append(f"@media {media}")
            continue
        for node in tinycss2.parse_stylesheet("".join(element.itertext()), skip_comments=True, skip_whitespace=True):
            if node.type == "at-rule":
                others.append(f"@{node.at_keyword}")
            elif node.type == "qualified-rule":
                declared = declarations(tinycss2.serialize(node.content))
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
