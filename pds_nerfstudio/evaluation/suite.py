"""A benchmark suite: a YAML list of edits of toybox, of studio or of captures, read with the line of every mistake.

edits:
  - raise-arms                        # an edit that toybox has by that name
  - name: blue-cube                   # or one of your own
    kind: appearance                  # appearance, addition or shape
    source: {shape: cube, colour: red}
    target: {colour: blue}            # what differs from the source

studio:                               # a suite has one of the three
  - vase-flower                       # an edit that studio has by that name

captures:
  - name: bear-panda
    kind: appearance
    data: data/in2n/bear              # as `ns-train --data` takes it, from the folder where the command is run
    source: a photo of a bear statue  # the prompts
    target: a photo of a panda
    parser: nerfstudio                # or blender, for folders laid out as NeRF-synthetic's; nerfstudio if not said

methods:                            # if it likes: the rows that `pds bench` runs where its line names none
  - pds-edit
  - pds-edit+sdedit-refine[pipeline.guidance_scale=2]
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import file_name
from pds_nerfstudio.studio import spec as studio
from pds_nerfstudio.studio.spec import StudioEdit
from pds_nerfstudio.toybox.spec import EDITS, EditKind, SceneSpec, ToyEdit, find_edit

OF_A_SUITE = ("edits", "studio", "captures", "methods")
OF_AN_EDIT = ("name", "kind", "source", "target")
OF_A_CAPTURE = (*OF_AN_EDIT, "data")
Parser = Literal["nerfstudio", "blender"]
OF_A_SCENE = tuple(field.name for field in fields(SceneSpec))


@dataclass(frozen=True)
class CaptureEdit:
    """A folder of photographs, and the prompts that say what should become of it."""

    name: str
    kind: EditKind
    data: Path
    """As `ns-train --data` takes it."""
    source_prompt: str
    target_prompt: str
    parser: Parser = "nerfstudio"
    """Which of nerfstudio's dataparsers reads it: blender takes folders laid out as NeRF-synthetic's."""


@dataclass(frozen=True)
class Suite:
    """Edits to be run by every method."""

    name: str
    edits: tuple[Any, ...]
    """Of toybox or studio scenes, of captures, or of a user's run; see `evaluation.benchmark.Edit`."""
    methods: tuple[str, ...] = ()
    """Rows that it is meant for, as `--methods` names them."""

    @property
    def of_captures(self) -> bool:
        """Whether its scenes are photographs, of which no edit's right answer is known."""
        return isinstance(self.edits[0], CaptureEdit)

    @property
    def of_stills(self) -> bool:
        """Whether its scenes are studio's."""
        return isinstance(self.edits[0], StudioEdit)


class _Mistake(Exception):
    def __init__(self, node: yaml.Node, what: str):
        super().__init__(what)
        self.line = node.start_mark.line + 1


def read_suite(path: Path) -> Suite:
    """Read and check a suite, without running anything.

    Raises:
        UserError: the file is missing, or the line and what is wrong with it.
    """
    if not path.is_file():
        raise UserError(f"There is no suite {path}: give a YAML file such as suites/dev.yaml.")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if root is None:
            raise UserError(f"{path} is empty: list edits under `edits:`.")
        entries = _mapping(root, OF_A_SUITE)
        methods = _methods(entries.pop("methods", None))
        (what, listed), *others = entries.items() or [("", root)]
        if others or not isinstance(listed, yaml.SequenceNode):
            raise _Mistake(root, "a suite is a list of edits under `edits:`, `studio:` or `captures:`")
        read, edits = {"edits": _edit, "studio": _still, "captures": _capture}[what], {}
        for node in listed.value:
            edit = read(node)
            if edit.name in edits:
                raise _Mistake(node, f"a second edit is named {edit.name!r}")
            edits[edit.name] = edit
        if not edits:
            raise _Mistake(listed, "the list of edits is empty")
    except _Mistake as mistake:
        raise UserError(f"{path}, line {mistake.line}: {mistake}.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise UserError(f"{path}, line {line}: {error.problem or 'not readable as YAML'}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise UserError(f"{path} is not readable as YAML.") from None
    return Suite(path.stem, tuple(edits.values()), methods)


def _methods(node: yaml.Node | None) -> tuple[str, ...]:
    if node is None:
        return ()
    listed = node.value if isinstance(node, yaml.SequenceNode) else []
    if not listed or not all(isinstance(entry, yaml.ScalarNode) for entry in listed):
        raise _Mistake(node, "methods are a list of names, each on a line of its own")
    return tuple(entry.value for entry in listed)


def _edit(node: yaml.Node) -> ToyEdit:
    if isinstance(node, yaml.ScalarNode):
        try:
            return find_edit(node.value)
        except ValueError:
            known = ", ".join(edit.name for edit in EDITS)
            raise _Mistake(node, f"there is no toybox edit {node.value!r}, only {known}") from None
    entries, kind = _entries(node, OF_AN_EDIT)
    source = _scene(entries["source"], {})
    target = _scene(entries["target"], {name: getattr(source, name) for name in OF_A_SCENE})
    if source == target:
        raise _Mistake(entries["target"], "the target is the source: say what differs")
    return ToyEdit(_name(entries["name"]), kind, source, target)


def _still(node: yaml.Node) -> StudioEdit:
    known = {edit.name: edit for edit in studio.EDITS}
    if not isinstance(node, yaml.ScalarNode) or node.value not in known:
        raise _Mistake(node, f"there is no studio edit {node.value!r}, only {', '.join(known)}")
    return known[node.value]


def _capture(node: yaml.Node) -> CaptureEdit:
    entries, kind = _entries(node, OF_A_CAPTURE, ("parser",))
    parser = entries.pop("parser", None)
    if parser is not None and parser.value not in get_args(Parser):
        raise _Mistake(parser, f"the parser is {parser.value!r}: it is one of {', '.join(get_args(Parser))}")
    words = {key: str(entries[key].value).strip() for key in ("name", "source", "target", "data")}
    for key, text in words.items():
        if not isinstance(entries[key], yaml.ScalarNode) or not text:
            raise _Mistake(entries[key], f"{key} is one line of text")
    if not (folder := Path(words["data"])).exists():
        raise _Mistake(
            entries["data"],
            f"there is no capture at {folder}: data_scripts/get_in2n_data.py fetches those of the papers",
        )
    prompts = words["source"], words["target"]
    return CaptureEdit(_name(entries["name"]), kind, folder, *prompts, "nerfstudio" if parser is None else parser.value)


def _name(node: yaml.Node) -> str:
    """An edit's name, which becomes part of files' names."""
    if not isinstance(node, yaml.ScalarNode):
        raise _Mistake(node, "the name is one line of text")
    try:
        return file_name(node.value)
    except ValueError as error:
        raise _Mistake(node, str(error)) from None


def _entries(
    node: yaml.Node, keys: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[dict[str, yaml.Node], EditKind]:
    """What an edit consists of, all of `keys` there, and its kind."""
    entries = _mapping(node, keys + optional)
    if missing := [key for key in keys if key not in entries]:
        raise _Mistake(node, f"the edit lacks {', '.join(missing)}")
    kind = entries["kind"].value
    if kind not in get_args(EditKind):
        raise _Mistake(entries["kind"], f"the kind is {kind!r}: it is one of {', '.join(get_args(EditKind))}")
    return entries, kind


def _scene(node: yaml.Node, given: dict[str, Any]) -> SceneSpec:
    values: dict[str, Any] = {}
    for name, value in _mapping(node, OF_A_SCENE).items():
        if not isinstance(value, yaml.ScalarNode):
            raise _Mistake(value, f"{name} is one word or number")
        try:
            values[name] = yaml.SafeLoader("").construct_object(value)
        except (ValueError, AttributeError, TypeError):  # a tag that the value is not, such as !!int
            raise _Mistake(value, f"{name} is not what its tag {value.tag} says") from None
    if not isinstance(values.get("hat", False), bool):
        raise _Mistake(node, f"hat is {values['hat']!r}: it is true or false")
    try:
        return SceneSpec(**given | values)
    except ValueError as error:
        raise _Mistake(node, str(error).removesuffix(".")) from None


def _mapping(node: yaml.Node, known: tuple[str, ...]) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise _Mistake(node, f"expected `key: value` with keys among {', '.join(known)}")
    entries: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key.value, str) or key.value not in known:
            raise _Mistake(key, f"{key.value!r} is not among {', '.join(known)}")
        if key.value in entries:
            raise _Mistake(key, f"{key.value!r} is given twice")
        entries[key.value] = value
    return entries
