"""The canvas of a file: its size, and how its user space lies on it."""

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.vector.attributes import length, number_list
from pds_nerfstudio.vector.drawing import CANVAS

LONGEST_SIDE = 8
"""Of the canvas, in multiples of the shorter one."""


def canvas_of(root: Element, path: Path) -> tuple[float, float, tuple[float, float], np.ndarray]:
    """Width and height of the canvas in its pixels, those of the viewport in user units, and the map between the two.

    Raises:
        UserError: it has no size or no area, or is too long.
    """
    box = number_list(root.get("viewBox", ""))
    wide, high = (_side(root, name, path) for name in ("width", "height"))
    if len(box) != 4:
        if root.get("viewBox"):
            raise UserError(f"{path} has a viewBox of {root.get('viewBox')!r}: give it four numbers.")
        if wide is None or high is None:
            raise UserError(f"{path} has neither a viewBox nor a width and height: give it a viewBox.")
        box = [0.0, 0.0, wide, high]
    x, y, across, down = box
    # `not >` rather than `<=`, so that NaN is refused too.
    if any(side is not None and not 0 < side < float("inf") for side in (across, down, wide, high)):
        raise UserError(f"The canvas of {path} has no area: give it a viewBox with a positive width and height.")
    if wide is None and high is None:
        wide, high = across, down
    wide = wide if wide is not None else (high or 0.0) * across / down
    high = high if high is not None else wide * down / across
    if not max(wide / high, high / wide) <= LONGEST_SIDE:
        raise UserError(
            f"The canvas of {path} is {wide:g} by {high:g}: one side may be {LONGEST_SIDE} times the other at most."
        )
    unit = CANVAS / min(wide, high)
    wide, high = wide * unit, high * unit
    align, *how = root.get("preserveAspectRatio", "xMidYMid").split() or ["xMidYMid"]
    sx, sy = wide / across, high / down
    if align != "none":
        sx = sy = max(sx, sy) if how == ["slice"] else min(sx, sy)
    share = {"Min": 0.0, "Mid": 0.5, "Max": 1.0}
    left = share.get(align[1:4], 0.0) * (wide - sx * across)
    top = share.get(align[5:8], 0.0) * (high - sy * down)
    return wide, high, (across, down), np.array([[sx, 0, left - sx * x], [0, sy, top - sy * y], [0, 0, 1.0]])


def _side(root: Element, name: str, path: Path) -> float | None:
    """A side's length in pixels; None where it is not given, or relative to what is around the drawing."""
    text = root.get(name, "auto")
    try:
        return None if text.strip().endswith("%") or text == "auto" else length(text)
    except ValueError:
        raise UserError(f"{path} has a {name} of {text!r}: give it in pixels.") from None
