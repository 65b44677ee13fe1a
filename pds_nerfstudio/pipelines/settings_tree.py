"""Settings by name: found, read, set and checked in the tree of groups that a configuration is."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.pipelines.settings import (
    Compute,
    DistilledScene,
    Group,
    NerfCompute,
    NerfSettings,
    Perturbation,
    SceneSettings,
    SplatPerturbation,
    SplatSettings,
)
from pds_nerfstudio.ranges import check_range
from pds_nerfstudio.scenes.scene import Family

OF_FAMILY: dict[Family, dict[type[Group], type[Group]]] = {
    "nerfacto": {Compute: NerfCompute, DistilledScene: NerfSettings},
    "splatfacto": {SceneSettings: SplatSettings, DistilledScene: SplatSettings, Perturbation: SplatPerturbation},
}
"""By family, what takes the place of a group."""


def for_family(config: Any, family: Family) -> None:
    """Let `config` hold its family's own settings, at their defaults."""
    for member in fields(config):
        group = getattr(config, member.name)
        if (kind := OF_FAMILY[family].get(type(group))) is not None:
            setattr(config, member.name, kind())


def settings(config: Any) -> Iterator[tuple[str, Any]]:
    """The name of every setting, without its group's, and what holds it."""
    for member in fields(config):
        value = getattr(config, member.name)
        if isinstance(value, Group):
            yield from settings(value)
        else:
            yield member.name, config


def check_settings(config: Any) -> None:
    """Raise UserError for a number outside the range that is declared beside it."""
    for name, holder in settings(config):
        if name not in ("_target", "model", "datamanager"):  # nerfstudio's own
            check_range(holder, name, "--pipeline.")


def holder(config: Any, name: str) -> Any:
    """What holds the setting `name`: `config` itself or one of its groups. Raises KeyError where there is none."""
    return dict(settings(config))[name]


def read(config: Any, name: str) -> Any:
    """The value of a setting. Raises KeyError where there is none of that name."""
    return getattr(holder(config, name), name)


def write(config: Any, name: str, value: Any) -> None:
    """Set a setting. Raises KeyError where there is none of that name."""
    setattr(holder(config, name), name, value)


def part(config: Any, name: str) -> Any:
    """The value of a setting by its flag's dotted name. Raises UserError where there is none."""
    first, _, rest = name.replace("-", "_").partition(".")
    known = config if isinstance(config, dict) else {name: getattr(holder, name) for name, holder in settings(config)}
    if first not in known:
        raise UserError(f"There is no setting {first!r} in {type(config).__name__}, only {', '.join(sorted(known))}.")
    value = known[first]
    if rest and not (isinstance(value, dict) or is_dataclass(value)):
        raise UserError(f"The setting {first!r} of {type(config).__name__} has no part {rest!r}.")
    return part(value, rest) if rest else value


def change(config: Any, name: str, value: Any) -> Any:
    """Set one value in a tree of configurations and dictionaries by its flag's dotted name; returns the tree's root.

    A frozen part, such as an objective, is replaced in what holds it.

    Raises:
        UserError: there is no such setting.
    """
    part(config, name)
    first, _, rest = name.replace("-", "_").partition(".")
    new = change(part(config, first), rest, value) if rest else value
    owner = config if isinstance(config, dict) else holder(config, first)
    if isinstance(owner, dict):
        owner[first] = new
    elif type(owner).__dataclass_params__.frozen:
        return dataclasses.replace(owner, **{first: new})
    else:
        setattr(owner, first, new)
    return config


def adopt_state(config: Any, state: dict[str, Any], family: Family | None) -> None:
    """Fill a configuration that was made without `__init__` from what a `config.yml` holds.

    Runs of 0.1.0 have every setting beside the others, those of their groups too, and some that their method has no
    use for; settings that a run is too old to have take their defaults.
    """
    vars(config).update(vars(type(config)()))
    if family is not None:
        for_family(config, family)
    own = {member.name for member in fields(config)}
    for name, value in state.items():
        if name in own:
            setattr(config, name, value)
    holders = dict(settings(config))
    for name, value in state.items():
        if name not in own and name in holders:
            setattr(holders[name], name, value)


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a tree of configurations with other values, by their dotted names; one value makes a list of one."""
    config = copy.deepcopy(config)
    for name, value in changes.items():
        is_list = isinstance(part(config, name), tuple) and not isinstance(value, tuple)
        change(config, name, (value,) if is_list else value)
    return config
