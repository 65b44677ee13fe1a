"""What a studio scene is made of: an object, its material, perhaps an addition, a room, a light.

The words are the prompts.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from pds_nerfstudio.text import choices
from pds_nerfstudio.toybox.spec import EditKind

Thing = Literal["vase", "bottle", "bowl", "mug", "teapot", "bust", "figure", "cheering"]
Material = Literal["red", "yellow", "green", "blue", "white", "wooden", "marble", "metal", "ceramic"]
Addition = Literal["nothing", "flower", "book", "hat"]
Room = Literal["table", "backdrop", "shelf"]
Light = Literal["soft", "sun", "evening"]

THINGS: tuple[Thing, ...] = get_args(Thing)
MATERIALS: tuple[Material, ...] = get_args(Material)
ADDITIONS: tuple[Addition, ...] = get_args(Addition)
ROOMS: tuple[Room, ...] = get_args(Room)
LIGHTS: tuple[Light, ...] = get_args(Light)

THING_WORDS: dict[Thing, str] = {**{thing: thing for thing in THINGS}, "cheering": "figure raising its arms"}
MATERIAL_WORDS: dict[Material, str] = {
    "red": "red",
    "yellow": "yellow",
    "green": "green",
    "blue": "blue",
    "white": "white",
    "wooden": "wooden",
    "marble": "marble",
    "metal": "brushed metal",
    "ceramic": "glazed ceramic",
}
ADDITION_WORDS: dict[Addition, str] = {
    "nothing": "",
    "flower": "with a flower in it",
    "book": "beside a book",
    "hat": "wearing a hat",
}
ROOM_WORDS: dict[Room, str] = {
    "table": "on a table by a window",
    "backdrop": "in a photo studio",
    "shelf": "on a shelf in a library",
}
LIGHT_WORDS: dict[Light, str] = {"soft": "in soft light", "sun": "in sunlight", "evening": "in evening light"}
IMPOSSIBLE: frozenset[tuple[Thing, Addition]] = frozenset(
    {
        *(("bowl", "hat"), ("mug", "hat")),
        *(("teapot", "flower"), ("bust", "flower"), ("figure", "flower"), ("cheering", "flower")),
    }
)
"""A hat would fall into a bowl or a mug; a teapot is closed, and busts and figures hold no flower."""


@dataclass(frozen=True)
class StudioSpec:
    """One studio scene. Equal specs render to equal images, up to the noise of path tracing.

    Raises ValueError for words that are not known, and for additions that the object cannot carry.
    """

    thing: Thing = "vase"
    """The object."""
    material: Material = "ceramic"
    """What the object is made of, or the colour it is painted in."""
    addition: Addition = "nothing"
    """What stands in it, beside it or on it."""
    room: Room = "table"
    """A table by a window, a plinth in front of a studio's backdrop, or a low shelf in a library."""
    light: Light = "soft"
    """Where the light comes from, and its colour."""
    seed: int = 0
    """Which piece of wood or marble it is, and how the object is turned. No caption tells."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("thing", self.thing, THINGS),
            ("material", self.material, MATERIALS),
            ("addition", self.addition, ADDITIONS),
            ("room", self.room, ROOMS),
            ("light", self.light, LIGHTS),
        ):
            if value not in known:
                raise ValueError(f"studio knows no {name} {value!r}; choose one of: {', '.join(known)}.")
        if (self.thing, self.addition) in IMPOSSIBLE:
            raise ValueError(f"studio has no {self.thing} with the addition {self.addition!r}; choose another.")
        if self.seed < 0:
            raise ValueError(f"The seed is {self.seed}; give 0 or more.")

    def prompt(self, material: bool = True, room: bool = True, light: bool = True) -> str:
        """The caption of this scene, optionally silent about the material, the room or the light."""
        words = ["a photo of a"]
        if material:
            words.append(MATERIAL_WORDS[self.material])
        words += [THING_WORDS[self.thing], ADDITION_WORDS[self.addition]]
        if room:
            words.append(ROOM_WORDS[self.room])
        if light:
            words.append(LIGHT_WORDS[self.light])
        return " ".join(word for word in words if word)


def all_specs() -> Iterator[StudioSpec]:
    """Every scene there is with seed 0, in a fixed order."""
    for thing, material, addition, room, light in product(THINGS, MATERIALS, ADDITIONS, ROOMS, LIGHTS):
        if (thing, addition) not in IMPOSSIBLE:
            yield StudioSpec(thing, material, addition, room, light)


@functools.cache
def _captions() -> dict[str, StudioSpec]:
    return {spec.prompt(): spec for spec in all_specs()}


def read_caption(caption: str) -> StudioSpec:
    """The scene, with seed 0, that has this full caption; the inverse of `StudioSpec.prompt`.

    Raises:
        ValueError: no scene of studio has it.
    """
    found = _captions().get(" ".join(caption.lower().split()))
    if found is None:
        example = StudioSpec(addition="flower").prompt()
        raise ValueError(f"No studio scene has the caption {caption!r}; write one such as {example!r}.")
    return found


def words() -> frozenset[str]:
    """Every word of the captions."""
    return frozenset(word for caption in _captions() for word in caption.split())


@dataclass(frozen=True)
class StudioEdit:
    """A source scene, the scene it should become, and the prompts that say so."""

    name: str
    kind: EditKind
    source: StudioSpec
    target: StudioSpec

    @property
    def source_prompt(self) -> str:
        return self.source.prompt(room=False, light=False)

    @property
    def target_prompt(self) -> str:
        return self.target.prompt(room=False, light=False)

    def alternatives(self) -> list[StudioSpec]:
        """The target among the other scenes of the same kind: other materials, other additions, other objects."""
        match self.kind:
            case "appearance":
                return [replace(self.target, material=material) for material in MATERIALS]
            case "addition":
                carried = [a for a in ADDITIONS if (self.target.thing, a) not in IMPOSSIBLE]
                return [replace(self.target, addition=addition) for addition in carried]
            case "shape":
                able = [t for t in THINGS if (t, self.target.addition) not in IMPOSSIBLE]
                return [replace(self.target, thing=thing) for thing in able]


@dataclass(frozen=True)
class Still:
    """A scene that is captured, and its edits: one of each kind."""

    name: str
    source: StudioSpec
    edits: tuple[StudioEdit, ...]


def _still(source: StudioSpec, material: Material, addition: Addition, thing: Thing) -> Still:
    edits = (
        StudioEdit(f"{source.thing}-{material}", "appearance", source, replace(source, material=material)),
        StudioEdit(f"{source.thing}-{addition}", "addition", source, replace(source, addition=addition)),
        StudioEdit(f"{source.thing}-to-{thing}", "shape", source, replace(source, thing=thing)),
    )
    return Still(source.thing, source, edits)


STILLS: tuple[Still, ...] = (
    _still(StudioSpec("vase", "ceramic", light="sun"), "marble", "flower", "bottle"),
    _still(StudioSpec("teapot", "metal", room="backdrop"), "red", "hat", "bowl"),
    _still(StudioSpec("mug", "blue", light="evening"), "wooden", "book", "teapot"),
    _still(StudioSpec("bottle", "marble", room="backdrop", light="evening"), "green", "hat", "vase"),
    _still(StudioSpec("figure", "wooden", room="shelf"), "metal", "hat", "cheering"),
)
"""The scenes whose photographs come with the package."""
EDITS: tuple[StudioEdit, ...] = tuple(edit for still in STILLS for edit in still.edits)
"""Edits with known answers, five of each kind."""


def find_edit(name: str) -> StudioEdit:
    """The edit of that name; ValueError lists the names there are."""
    for edit in EDITS:
        if edit.name == name:
            return edit
    raise ValueError(f"There is no studio edit {name!r}: {choices(name, [edit.name for edit in EDITS])}")


def still_of(edit: StudioEdit) -> Still:
    """The captured scene that an edit of `EDITS` changes."""
    return next(still for still in STILLS if edit in still.edits)


def find_still(name: str) -> Still:
    """The captured scene of that name; ValueError lists the names there are."""
    for still in STILLS:
        if still.name == name:
            return still
    known = ", ".join(still.name for still in STILLS)
    raise ValueError(f"There is no studio capture {name!r}; choose one of: {known}.")


def is_held_out(spec: StudioSpec) -> bool:
    """Whether the prior never saw a scene of these words: those that the edits begin and end with.

    Every word occurs in training with most of its partners. The edits' own seed is kept from training too.
    """
    plain = replace(spec, seed=0)
    return any(plain in (edit.source, edit.target) for edit in EDITS)
