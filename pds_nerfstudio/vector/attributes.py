"""The small languages of SVG's attributes: lengths, transforms and colours."""

import math
import re
from collections.abc import Iterable

import numpy as np
from PIL import ImageColor

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
UNITS = {
    "": 1,
    "px": 1,
    "pt": 4 / 3,
    "pc": 16,
    "mm": 96 / 25.4,
    "cm": 96 / 2.54,
    "in": 96,
    "em": 16,
    "rem": 16,
    "ex": 8,
}
"""CSS pixels; em and ex of the default font."""


def number_list(text: str) -> list[float]:
    """All numbers of an attribute such as `points` or `viewBox`."""
    return [float(found) for found in re.findall(NUMBER, text)]


def length(text: str, whole: float = 0.0) -> float:
    """In user units; a percentage is of `whole`. Raises ValueError for anything else."""
    found = re.fullmatch(rf"\s*({NUMBER})\s*([a-zA-Z%]*)\s*", text)
    if not found or found[2].lower() not in (*UNITS, "%"):
        raise ValueError(f"{text!r} is no length")
    return float(found[1]) * (whole / 100 if found[2] == "%" else UNITS[found[2].lower()])


def fraction(text: str) -> float:
    """An opacity or offset, as a number or a percentage, in [0, 1]. Raises ValueError for anything else."""
    return min(max(length(text, 1.0), 0.0), 1.0)


def transform(text: str) -> np.ndarray:
    """A `transform` attribute as a 3x3 matrix in float64. Raises ValueError where it cannot be read."""
    matrix = np.eye(3)
    rest = re.sub(r"(\w+)\s*\(([^)]*)\)", "", text)
    if rest.strip(" ,\t\r\n"):
        raise ValueError(f"{text!r} is no transform")
    for name, arguments in re.findall(r"(\w+)\s*\(([^)]*)\)", text):
        matrix = matrix @ _one_transform(name, number_list(arguments))
    return matrix


def _one_transform(name: str, v: list[float]) -> np.ndarray:
    match name, len(v):
        case "matrix", 6:
            return np.array([[v[0], v[2], v[4]], [v[1], v[3], v[5]], [0, 0, 1]])
        case "translate", 1 | 2:
            return np.array([[1, 0, v[0]], [0, 1, v[1] if len(v) == 2 else 0], [0, 0, 1]])
        case "scale", 1 | 2:
            return np.diag([v[0], v[-1], 1.0])
        case "rotate", 1 | 3:
            c, s = math.cos(math.radians(v[0])), math.sin(math.radians(v[0]))
            turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
            if len(v) == 1:
                return turn
            shift = _one_transform("translate", v[1:])
            return shift @ turn @ _one_transform("translate", [-v[1], -v[2]])
        case "skewX", 1:
            return np.array([[1, math.tan(math.radians(v[0])), 0], [0, 1, 0], [0, 0, 1.0]])
        case "skewY", 1:
            return np.array([[1, 0, 0], [math.tan(math.radians(v[0])), 1, 0], [0, 0, 1.0]])
    raise ValueError(f"{name} with {len(v)} numbers is no transform")


def colour(text: str) -> tuple[tuple[float, float, float], float]:
    """sRGB and alpha in [0, 1] of a CSS colour. Raises ValueError for one that is not known."""
    text = re.sub(r"\s+", " ", text.strip().lower())
    if text == "transparent":
        return (0.0, 0.0, 0.0), 0.0
    if found := re.fullmatch(r"(rgb|hsl)a?\((.*)\)", text):
        parts = [part for part in re.split(r"[ ,/]+", found[2].strip()) if part]
        alpha = fraction(parts.pop()) if len(parts) == 4 else 1.0
        if found[1] == "rgb" and len(parts) == 3:
            channels = [length(part, 255.0) / 255 for part in parts]
            return _three(min(max(channel, 0.0), 1.0) for channel in channels), alpha
        text = f"hsl({','.join(part.removesuffix('deg') for part in parts)})"
        return _three(channel / 255 for channel in ImageColor.getrgb(text)), alpha
    channels = [channel / 255 for channel in ImageColor.getrgb(text)]
    return _three(channels), channels[3] if len(channels) == 4 else 1.0


def _three(channels: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue, *_ = channels
    return red, green, blue
