"""A run's `config.yml` as plain values, read in milliseconds: nothing that it names is imported or called.

What a file may name at all is decided here, for this reader and for `scenes.run_config`, which builds nerfstudio's own
objects from it.
"""

import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pds_nerfstudio.errors import UserError

Fastest: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's reader, where PyYAML was built with it."""
OF_SETTINGS = ("nerfstudio", "gsplat", "viser", "pds_nerfstudio")
"""Packages whose dataclasses and enums may be built."""
OF_TARGETS = ("nerfstudio", "pds_nerfstudio", "torch.optim")
"""Packages whose classes may be named, as what a configuration sets up."""
FUNCTIONS = ("nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",)
"""The functions that nerfstudio's own configurations name."""
PATHS = ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.Path", "pathlib._local.PosixPath")
INDEXING = ("_operator.getitem", "operator.getitem")
LARGEST = 4 << 20
"""Bytes of a configuration; nerfstudio's have about ten thousand."""
DEEPEST = 10_000
"""Brackets that open, and lists and keys that begin within one line: libyaml's reader goes one call deeper with each,
and a process ends where its stack does."""
PYTHON = "tag:yaml.org,2002:python/"


class NotAllowed(yaml.constructor.ConstructorError):
    """The file asks for something that no configuration consists of."""

    def __init__(self, node: yaml.Node, what: str):
        super().__init__(None, None, what, node.start_mark)


class Settings(dict[str, Any]):
    """The fields of one object of a configuration, and the class that the file says it is of."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind


class Reader(yaml.constructor.SafeConstructor):
    """What the two readers of configurations share: tuples, paths, and what is refused."""

    def pair(self, node: yaml.Node) -> tuple[Any, ...]:
        """A tuple."""
        if not isinstance(node, yaml.SequenceNode):
            raise NotAllowed(node, "a tuple is not a list of values")
        return tuple(self.construct_sequence(node, deep=True))

    def path(self, name: str, node: yaml.Node, values: list[Any]) -> Path:
        """A path; one that was written on another system is read as far as it can be, by its parts."""
        if not all(isinstance(value, str) and "\0" not in value for value in values):
            raise NotAllowed(node, "a path is not made of text")
        return Path(*(pathlib.PureWindowsPath(v).as_posix() if name.endswith("WindowsPath") else v for v in values))

    def arguments(self, name: str, node: yaml.Node) -> list[Any]:
        """What something is to be made of."""
        if not isinstance(node, yaml.SequenceNode):
            raise NotAllowed(node, f"it calls {name}")
        return self.construct_sequence(node, deep=True)

    def refused(self, suffix: str, node: yaml.Node) -> Any:
        """Whatever else Python's YAML knows."""
        raise NotAllowed(node, f"it asks for {suffix or node.tag}, which no configuration needs")


class PlainLoader(Reader, Fastest):
    """Plain values, tuples and paths; objects as their fields, classes by their names."""

    def settings(self, name: str, node: yaml.Node) -> Iterator[Settings]:
        """An object, as its fields."""
        require_part(name, node, OF_SETTINGS)
        if not isinstance(node, yaml.MappingNode):
            raise NotAllowed(node, f"{name} has no fields")
        found = Settings(name)
        yield found
        found.update({str(name): value for name, value in self.construct_mapping(node, deep=True).items()})

    def target(self, name: str, node: yaml.Node) -> str:
        """A class, by its name."""
        require_part(name, node, OF_TARGETS)
        return name

    def applied(self, name: str, node: yaml.Node) -> Any:
        """A path, the value of a member of an enum, or a class without its parameter."""
        values = self.arguments(name, node)
        if name in PATHS:
            return self.path(name, node, values)
        if name not in INDEXING:
            require_part(name, node, OF_SETTINGS)
        return values[0] if values else None


def require_part(name: str, node: yaml.Node, packages: tuple[str, ...]) -> None:
    """Raise NotAllowed where `name` is of another package than these."""
    if not is_within(name, packages):
        raise no_part(name, node, packages)


def no_part(name: str, node: yaml.Node, packages: tuple[str, ...]) -> NotAllowed:
    """What is wrong with a name of another package than these."""
    listed = ", ".join(packages[:-1]) + f" or {packages[-1]}"
    return NotAllowed(node, f"it names {name}, which is no part of a configuration of {listed}")


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is of one of these packages."""
    return any(name.startswith(f"{package}.") for package in packages)


def add_constructors(loader: Any) -> None:
    """Let a loader read Python's tags by its `settings`, `applied`, `target`, `pair` and `refused`."""
    loader.add_multi_constructor(f"{PYTHON}object:", loader.settings)
    loader.add_multi_constructor(f"{PYTHON}object/apply:", loader.applied)
    loader.add_multi_constructor(f"{PYTHON}name:", loader.target)
    loader.add_constructor(f"{PYTHON}tuple", loader.pair)
    for tag, plain in (("str", "str"), ("unicode", "str"), ("int", "int"), ("float", "float"), ("bool", "bool")):
        loader.add_constructor(f"{PYTHON}{tag}", getattr(yaml.SafeLoader, f"construct_yaml_{plain}"))
    loader.add_constructor(f"{PYTHON}none", yaml.SafeLoader.construct_yaml_null)
    loader.add_multi_constructor(PYTHON, loader.refused)


add_constructors(PlainLoader)


@contextmanager
def reading(path: Path) -> Iterator[str]:
    """Of a configuration, its text; within this block, whatever keeps it from being read is a UserError of one
    sentence."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has {path.stat().st_size} bytes, far more than a run's configuration.")
        text = path.read_text(encoding="utf8")
        if max(text.count(opening) for opening in "[{") > DEEPEST or _most_in_a_line(text) > DEEPEST:
            raise UserError(f"{path} is nested deeper than a run's configuration: name a finished run.")
        yield text
    except NotAllowed as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise UserError(
            f"{path} cannot be read as a nerfstudio config (line {line}: {error.problem}): is the method that made the "
            "run installed? A configuration that could run code is never read."
        ) from error
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read as a nerfstudio config ({' '.join(str(error).split())[:160]}): name a finished run."
        ) from error


def _most_in_a_line(text: str) -> int:
    return max((line.count("- ") + line.count("? ") for line in text.splitlines()), default=0)


def read_plain(path: Path) -> Settings:
    """The configuration of a nerfstudio run, as plain values.

    Raises:
        UserError: it cannot be read, would run code, or is of something else than a training.
    """
    with reading(path) as text:
        config = yaml.load(text, Loader=PlainLoader)
    pipeline = config.get("pipeline") if isinstance(config, Settings) else None
    if not isinstance(config, Settings) or not config.kind.endswith("TrainerConfig"):
        raise UserError(f"{path} is not the config of a nerfstudio training run.")
    parts = {"method_name": (config, str), "relative_model_dir": (config, Path), "pipeline": (config, Settings)}
    parts |= {name: (pipeline, Settings) for name in ("model", "datamanager")}
    for name, (holder, kind) in parts.items():
        if not isinstance(holder, dict) or not isinstance(holder.get(name), kind):
            raise UserError(f"{path} is damaged: its {name} is missing or of another type. Name another run.")
    return config
