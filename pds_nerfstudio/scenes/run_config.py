"""A run's `config.yml`, read so that a stranger's run runs no code.

nerfstudio writes configurations as Python objects in YAML and reads them by `yaml.Loader`, which calls whatever the
file names. Here a file can only name what a configuration consists of: dataclasses and enums of nerfstudio, gsplat,
viser and this package, the classes that they build, paths, and plain values. Nothing is called but an enum's or a
path's constructor.
"""

import copy
import dataclasses
import enum
import importlib
import inspect
import pathlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.engine.trainer import TrainerConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole

OF_SETTINGS = ("nerfstudio", "gsplat", "viser", "pds_nerfstudio")
"""Packages whose dataclasses and enums may be built."""
OF_TARGETS = ("nerfstudio", "pds_nerfstudio", "torch.optim")
"""Packages whose classes may be named, as what a configuration sets up."""
FUNCTIONS = ("nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",)
"""The functions that nerfstudio's own configurations name."""
LARGEST = 4 << 20
"""Bytes of a configuration; nerfstudio's have about ten thousand."""


class NotAllowed(yaml.constructor.ConstructorError):
    """The file asks for something that no configuration consists of."""

    def __init__(self, node: yaml.Node, what: str):
        super().__init__(None, None, what, node.start_mark)


class RunLoader(yaml.SafeLoader):
    """YAML's plain values, and the Python objects that configurations consist of."""

    def named(self, name: str, node: yaml.Node, packages: tuple[str, ...]) -> Any:
        """What `name` is called in one of `packages`; also what is defined there must be of one of them.

        Raises:
            NotAllowed: it is of another package, or this installation does not have it.
        """
        if not _within(name, packages):
            raise NotAllowed(node, f"it names {name}, which is no part of a configuration of {_listed(packages)}")
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError):
            raise NotAllowed(node, f"it names {name}, which this installation does not have") from None
        home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
        if not _within(home, packages):
            raise NotAllowed(node, f"it names {name}, which is no part of a configuration of {_listed(packages)}")
        return found

    def settings(self, name: str, node: yaml.Node) -> Iterator[Any]:
        """A dataclass, its fields filled in without a call."""
        kind = self.named(name, node, OF_SETTINGS)
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise NotAllowed(node, f"it names {name}, which is not a class of settings")
        if not isinstance(node, yaml.MappingNode):
            raise NotAllowed(node, f"{name} has no fields")
        instance = object.__new__(kind)
        yield instance
        fields = {field.name for field in dataclasses.fields(kind)}
        values = {}
        for key, value in self.construct_mapping(node, deep=True).items():
            # A field of an older version may be gone; what is a method must not be replaced.
            if not isinstance(key, str) or (key not in fields and (hasattr(kind, key) or key.startswith("__"))):
                raise NotAllowed(node, f"{name} has no field {key!r}")
            values[key] = value
        vars(instance).update(values)
        if _within(kind.__module__, ("pds_nerfstudio",)) and hasattr(kind, "__setstate__"):
            instance.__setstate__(values)  # pyright: ignore[reportAttributeAccessIssue] - our own, which reads what older versions wrote
        target = vars(instance).get("_target")
        if isinstance(instance, InstantiateConfig) and not inspect.isclass(getattr(target, "__origin__", target)):
            raise NotAllowed(node, f"the _target of {name} is not a class")

    def target(self, name: str, node: yaml.Node) -> Any:
        """A class that a configuration sets up, or one of FUNCTIONS; named, not called."""
        found = self.named(name, node, OF_TARGETS)
        if not (inspect.isclass(found) or name in FUNCTIONS):
            raise NotAllowed(node, f"it names {name}, which is not a class")
        return found

    def applied(self, name: str, node: yaml.Node) -> Any:
        """A path, a member of an enum, or a class with its parameter: VanillaDataManager[DepthDataset]."""
        if not isinstance(node, yaml.SequenceNode):
            raise NotAllowed(node, f"it calls {name}")
        values = self.construct_sequence(node, deep=True)
        if name in ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.Path", "pathlib._local.PosixPath"):
            if not all(isinstance(value, str) and "\0" not in value for value in values):
                raise NotAllowed(node, "a path is not made of text")
            # A path written on another system is read as far as it can be: by its parts.
            return Path(*(pathlib.PureWindowsPath(v).as_posix() if name.endswith("WindowsPath") else v for v in values))
        if name in ("_operator.getitem", "operator.getitem"):
            kind, parameter = values if len(values) == 2 else (None, None)
            parameters = parameter if isinstance(parameter, tuple) else (parameter,)
            if inspect.isclass(kind) and hasattr(kind, "__class_getitem__") and all(map(inspect.isclass, parameters)):
                return kind[parameter]  # pyright: ignore[reportInvalidTypeArguments, reportIndexIssue]
            raise NotAllowed(node, "it indexes something that is not a class")
        kind = self.named(name, node, OF_SETTINGS)
        if not (isinstance(kind, type) and issubclass(kind, enum.Enum) and len(values) == 1):
            raise NotAllowed(node, f"it calls {name}")
        try:
            return kind(values[0])
        except (ValueError, TypeError):
            raise NotAllowed(node, f"{name} has no member {values[0]!r}") from None

    def pair(self, node: yaml.Node) -> tuple[Any, ...]:
        """A tuple."""
        if not isinstance(node, yaml.SequenceNode):
            raise NotAllowed(node, "a tuple is not a list of values")
        return tuple(self.construct_sequence(node, deep=True))

    def refused(self, suffix: str, node: yaml.Node) -> Any:
        """Whatever else Python's YAML knows."""
        raise NotAllowed(node, f"it asks for {suffix or node.tag}, which no configuration needs")


PYTHON = "tag:yaml.org,2002:python/"
RunLoader.add_multi_constructor(f"{PYTHON}object:", RunLoader.settings)
RunLoader.add_multi_constructor(f"{PYTHON}object/apply:", RunLoader.applied)
RunLoader.add_multi_constructor(f"{PYTHON}name:", RunLoader.target)
RunLoader.add_constructor(f"{PYTHON}tuple", RunLoader.pair)
for _tag, _plain in (("str", "str"), ("unicode", "str"), ("int", "int"), ("float", "float"), ("bool", "bool")):
    RunLoader.add_constructor(f"{PYTHON}{_tag}", getattr(yaml.SafeLoader, f"construct_yaml_{_plain}"))
RunLoader.add_constructor(f"{PYTHON}none", yaml.SafeLoader.construct_yaml_null)
RunLoader.add_multi_constructor(PYTHON, RunLoader.refused)


def load_config(path: Path) -> TrainerConfig:
    """The configuration of a nerfstudio run.

    Raises:
        UserError: it cannot be read, names what this installation does not have, or would run code.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has {path.stat().st_size} bytes, far more than a run's configuration.")
        config = yaml.load(path.read_text(encoding="utf8"), Loader=RunLoader)
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
    if not isinstance(config, TrainerConfig):
        raise UserError(f"{path} is not the config of a nerfstudio training run.")
    for name, kind in (("method_name", str), ("relative_model_dir", Path), ("pipeline", InstantiateConfig)):
        if not isinstance(getattr(config, name, None), kind):
            raise UserError(f"{path} is damaged: its {name} is missing or of another type. Name another run.")
    for name in ("model", "datamanager"):
        if not dataclasses.is_dataclass(getattr(config.pipeline, name, None)):
            raise UserError(f"{path} is damaged: its pipeline has no {name}. Name another run.")
    return config


def usable_config(config_path: Path, config: TrainerConfig, folder: Path) -> Path:
    """A `config.yml` by which nerfstudio's own commands read this run, and not the one that it was copied from.

    Args:
        config_path, config: the run's.
        folder: where a new file is written if one is needed.
    """
    at_home = config.get_base_dir().resolve() == config_path.parent.resolve()
    if at_home and _data_of(config) == _data_of(load_config(config_path)):
        return config_path
    own = copy.copy(config)
    own.relative_model_dir = (config_path.parent / config.relative_model_dir).resolve()
    write_whole(folder / "config.yml", yaml.dump(own))
    return folder / "config.yml"


def _data_of(config: TrainerConfig) -> Any:
    return getattr(config.pipeline.datamanager, "data", None)


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)


def _listed(packages: tuple[str, ...]) -> str:
    return ", ".join(packages[:-1]) + f" or {packages[-1]}"
