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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.engine.trainer import TrainerConfig

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import write_whole
from pds_nerfstudio.run_yaml import (
    FUNCTIONS,
    INDEXING,
    OF_SETTINGS,
    OF_TARGETS,
    PATHS,
    Fastest,
    NotAllowed,
    Reader,
    add_constructors,
    is_within,
    no_part,
    reading,
    require_part,
)


class RunLoader(Reader, Fastest):
    """YAML's plain values, and the Python objects that configurations consist of."""

    def named(self, name: str, node: yaml.Node, packages: tuple[str, ...]) -> Any:
        """What `name` is called in one of `packages`; also what is defined there must be of one of them.

        Raises:
            NotAllowed: it is of another package, or this installation does not have it.
        """
        require_part(name, node, packages)
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError):
            raise NotAllowed(node, f"it names {name}, which this installation does not have") from None
        home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
        if not is_within(home, packages):
            raise no_part(name, node, packages)
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
        if is_within(kind.__module__, ("pds_nerfstudio",)) and hasattr(kind, "__setstate__"):
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
        values = self.arguments(name, node)
        if name in PATHS:
            return self.path(name, node, values)
        if name in INDEXING:
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


add_constructors(RunLoader)


def load_config(path: Path) -> TrainerConfig:
    """The configuration of a nerfstudio run.

    Raises:
        UserError: it cannot be read, names what this installation does not have, or would run code.
    """
    with reading(path) as text:
        config = yaml.load(text, Loader=RunLoader)
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
