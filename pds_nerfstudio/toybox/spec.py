"""What a toybox scene is made of: an object, its colour, a floor, perhaps a hat. The words are the prompts."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from pds_nerfstudio.text import choices

Shape = Literal[
    "ball",
    "cube",
    "cone",
    "can",
    "flat can",
    "tall can",
    "ring",
    "man",
    "man stretching out his arms",
    "man raising his arms",
]
Colour = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"]
Floor = Literal["gray", "black", "brown", "beige"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
FLOORS: tuple[Floor, ...] = get_args(Floor)
HATS = (False, True)


@dataclass(frozen=True)
class SceneSpec:
    """One toybox scene. Equal specs render to equal images."""

    shape: Shape = "ball"
    """The object; the three "man" shapes differ only in where the arms are."""
    colour: Colour = "red"
    """The object's colour; a man's head and hands keep their own."""
    floor: Floor = "gray"
    """Colour of the round floor."""
    hat: bool = False
    """Whether a black hat sits on top of the object."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("shape", self.shape, SHAPES),
            ("colour", self.colour, COLOURS),
            ("floor", self.floor, FLOORS),
        ):
            if value not in known:
                raise ValueError(f"toybox knows no {name} {value!r}; choose one of: {', '.join(known)}.")

    def prompt(self, colour: bool = True, floor: bool = True) -> str:
        """The caption of this scene, optionally silent about the colour or the floor."""
        words = ["a photo of a"]
        if colour:
            words.append(self.colour)
        words.append(self.shape)
        if self.hat:
            words.append("wearing a hat")
        if floor:
            words.append(f"on a {self.floor} floor")
        text = " ".join(words)
        return text.replace("photo of a orange", "photo of an orange")


def all_specs() -> Iterator[SceneSpec]:
    """Every scene there is, in a fixed order."""
    for shape, colour, floor, hat in product(SHAPES, COLOURS, FLOORS, HATS):
        yield SceneSpec(shape, colour, floor, hat)


def is_held_out(spec: SceneSpec) -> bool:
    """Whether the prior never saw this colour on this shape: a quarter of all colour and shape pairs.

    Every colour and every shape occurs in training with most of its partners, so that what is asked of the prior on
    these pairs is to combine two things it knows.
    """
    return (2 * SHAPES.index(spec.shape) + COLOURS.index(spec.colour) + SHAPES.index(spec.shape) // 4) % 4 == 3


def held_out_captions() -> list[tuple[SceneSpec, str]]:
    """The 200 scenes and captions of those pairs: 160 that name the floor and 40 that are silent about it."""
    specs = [spec for spec in all_specs() if is_held_out(spec)]
    named = [(spec, spec.prompt()) for spec in specs]
    return named + [(spec, spec.prompt(floor=False)) for spec in specs if spec.floor == FLOORS[0]]


EditKind = Literal["appearance", "addition", "shape"]


@dataclass(frozen=True)
class ToyEdit:
    """A source scene, the scene it should become, and the prompts that say so."""

    name: str
    kind: EditKind
    source: SceneSpec
    target: SceneSpec

    @property
    def source_prompt(self) -> str:
        return self.source.prompt(floor=False)

    @property
    def target_prompt(self) -> str:
        return self.target.prompt(floor=False)

    def alternatives(self) -> list[SceneSpec]:
        """The target among the other scenes of the same kind: other colours, hat or none, other shapes."""
        match self.kind:
            case "appearance":
                return [replace(self.target, colour=colour) for colour in COLOURS]
            case "addition":
                return [replace(self.target, hat=hat) for hat in HATS]
            case "shape":
                return [replace(self.target, shape=shape) for shape in SHAPES]


EDITS: tuple[ToyEdit, ...] = (
    ToyEdit("red-to-blue", "appearance", SceneSpec("ball", "red"), SceneSpec("ball", "blue")),
    ToyEdit("yellow-to-green", "appearance", SceneSpec("cube", "yellow"), SceneSpec("cube", "green")),
    ToyEdit("man-hat", "addition", SceneSpec("man", "blue"), SceneSpec("man", "blue", hat=True)),
    ToyEdit("ball-hat", "addition", SceneSpec("ball", "red"), SceneSpec("ball", "red", hat=True)),
    ToyEdit("can-to-cone", "shape", SceneSpec("can", "red"), SceneSpec("cone", "red")),
    ToyEdit("cone-to-ball", "shape", SceneSpec("cone", "yellow"), SceneSpec("ball", "yellow")),
    ToyEdit("ball-to-cube", "shape", SceneSpec("ball", "red"), SceneSpec("cube", "red")),
    ToyEdit("flat-to-tall", "shape", SceneSpec("flat can", "green"), SceneSpec("tall can", "green")),
    ToyEdit("tall-to-flat", "shape", SceneSpec("tall can", "cyan"), SceneSpec("flat can", "cyan")),
    ToyEdit("flat-to-cone", "shape", SceneSpec("flat can", "yellow"), SceneSpec("cone", "yellow")),
    ToyEdit("ring-to-tall", "shape", SceneSpec("ring", "purple"), SceneSpec("tall can", "purple")),
    ToyEdit("lower-arms", "shape", SceneSpec("man raising his arms", "orange"), SceneSpec("man", "orange")),
    ToyEdit("raise-arms", "shape", SceneSpec("man", "blue"), SceneSpec("man raising his arms", "blue")),
    ToyEdit("arms-out", "shape", SceneSpec("man", "green"), SceneSpec("man stretching out his arms", "green")),
)
"""Edits with known answers: appearance, addition and shape, after the three kinds of Le et al. 2024, section 4."""


def find_edit(name: str) -> ToyEdit:
    """The edit of that name; ValueError lists the names there are."""
    for edit in EDITS:
        if edit.name == name:
            return edit
    raise ValueError(f"There is no toybox edit {name!r}: {choices(name, [edit.name for edit in EDITS])}")


@functools.cache
def words() -> frozenset[str]:
    """Every word of the captions of toybox's scenes: what its prior has been taught."""
    captions = (spec.prompt(c, f) for spec in all_specs() for c in (True, False) for f in (True, False))
    return frozenset(word for caption in captions for word in caption.lower().split())
