"""What a command line named, as opposed to what it left at a default of the same value.

A resumed edit takes everything from its run but what was named. That cannot be told from values: naming the default is
how one gets back to it.
"""

import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError, one_sentence
from pds_nerfstudio.flags import flags_of, parser_of, refuse_mistyped, refuse_unquoted, tidied
from pds_nerfstudio.pipelines.settings import Group, NerfCompute

DATAPARSER = "pipeline.datamanager.dataparser"
"""The subcommand of `ns-train METHOD`; flags behind it are the dataparser's and carry no prefix."""
OF_THE_MACHINE = (
    "machine",
    "logging",
    "viewer",
    "vis",
    "output_dir",
    "experiment_name",
    "timestamp",
    "data",
    "verbose",
)
"""What says where and how an edit runs, not what it is; with the settings of `Compute`."""


class Given:
    """The settings that were named, by the dotted names of their flags: "pipeline.objective.guidance_scale"."""

    def __init__(self, names: set[str]):
        self._names = names

    @classmethod
    def of(cls, config: Any, default: Any) -> "Given":
        """What this process's command line named; in a process that is no `ns-train`, where `config` departs from
        `default`."""
        if _is_ns_train(sys.argv):
            return cls(named(sys.argv[1:]))
        values = dict(_leaves(default))
        return cls({name for name, value in _leaves(config) if name not in values or values[name] != value})

    def with_also(self, *names: str) -> "Given":
        """These and others, which are their defaults and were meant."""
        return Given(self._names | set(names))

    def __contains__(self, name: str) -> bool:
        """Whether that setting was named itself."""
        return name in self._names

    def within(self, name: str) -> bool:
        """Whether it was, or any part of it."""
        return name in self._names or any(one.startswith(f"{name}.") for one in self._names)


def named(arguments: Sequence[str]) -> set[str]:
    """The settings that the arguments of `ns-train` name."""
    from nerfstudio.configs.dataparser_configs import dataparsers

    names: set[str] = set()
    prefix = ""
    for argument in arguments:
        if argument.startswith("--"):
            names.add(prefix + argument[2:].partition("=")[0].replace("-", "_"))
        elif argument in dataparsers:
            names.add(DATAPARSER)
            prefix = f"{DATAPARSER}."
    return names


def of_the_machine(arguments: Sequence[str]) -> list[str]:
    """Those of `ns-train METHOD`'s arguments that a resumed edit does not have from its run; see `OF_THE_MACHINE`.

    Subcommands and their flags are the dataset's, which the run names.
    """
    from nerfstudio.configs.dataparser_configs import dataparsers

    compute = tuple(f"pipeline.{member.name}" for member in fields(NerfCompute))
    kept, keep = [], False
    for argument in arguments:
        if argument in dataparsers:
            break
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("-", "_")
            keep = name in compute or name.split(".")[0] in OF_THE_MACHINE
        if keep:
            kept.append(argument)
    return kept


def refuse_load_config(arguments: Sequence[str], edits: Container[str]) -> None:
    """End `ns-train EDIT --load-config RUN/config.yml` in one sentence, before it is read.

    nerfstudio replaces the whole command line by what that file says: it would train the base again, in its own folder.
    """
    asked = any(word.partition("=")[0].replace("_", "-") == "--load-config" for word in arguments)
    if _is_ns_train(arguments) and asked and (method := arguments[1]) in edits:
        with one_sentence():
            raise UserError(
                f"ns-train {method} --load-config would train the run that it names again, in its own folder: name the "
                "run to edit with --load-dir."
            )


def tidy_command_line(config: Any) -> None:
    """Before nerfstudio reads it: bring the prompts' flags of this `ns-train` into form, and end one that is mistyped
    in a sentence. nerfstudio answers after half a minute, with flags of all of its methods.

    Args:
        config: of the method that it names.
    """
    if hasattr(config.pipeline, "src_prompt"):
        sys.argv[:] = tidied(sys.argv, "--pipeline.")

    def known() -> set[str]:
        names = flag_names(config)
        typed = {word[2:].partition("=")[0].replace("_", "-") for word in sys.argv[2:] if word.startswith("--")}
        return names if typed <= names else names | flags_with_datasets(config)

    def datasets() -> Container[str]:
        from nerfstudio.configs.dataparser_configs import dataparsers

        return dataparsers

    with one_sentence():
        refuse_unquoted(sys.argv[2:], datasets)
        refuse_mistyped(sys.argv[2:], f"ns-train {sys.argv[1]}", known)


def flag_names(config: Any) -> set[str]:
    """The flags that a configuration has by itself, without dashes; a dataset's subcommand has more."""
    return {name.replace("_", "-") for name, _ in _leaves(config)}


def flags_with_datasets(config: Any) -> set[str]:
    """The same with those of every dataset's subcommand, which takes seconds."""
    return flags_of(parser_of(type(config), config))


def parsed(config: Any, arguments: Sequence[str], command: str) -> Any:
    """A configuration with these arguments, as `ns-train METHOD` reads them.

    Raises:
        SystemExit: a value cannot be read, which has been said.
    """
    import tyro

    kind: Any = tyro.conf.FlagConversionOff[type(config)]  # as nerfstudio has it: True and False are written out
    return tyro.cli(kind, default=config, args=list(arguments), prog=command)


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether this is `ns-train METHOD --help`."""
    return any(word in ("-h", "--help") for word in arguments[2:])


def names_one_of(arguments: Sequence[str], methods: Container[str]) -> bool:
    """Whether this is `ns-train` with one of these methods, in a single process."""
    several = any(word.replace("_", "-").startswith(("--machine.num-", "--machine.machine-")) for word in arguments)
    return _is_ns_train(arguments) and len(arguments) > 1 and arguments[1] in methods and not several


def merged(previous: Any, now: Any, given: Given, name: str) -> Any:
    """`previous`, with whatever was given of setting `name` and its parts taken from `now`."""
    if name in given:
        return now
    if not given.within(name):
        return previous
    if isinstance(previous, Mapping):
        parts = {key: merged(value, now[key], given, f"{name}.{key}") for key, value in previous.items() if key in now}
        return {**previous, **parts}
    if not _has_parts(previous):
        return now
    parts = {
        member.name: merged(getattr(previous, member.name), getattr(now, member.name), given, f"{name}.{member.name}")
        for member in fields(previous)
        if member.init and hasattr(now, member.name)
    }
    return type(previous)(**{**{m.name: getattr(previous, m.name) for m in fields(previous) if m.init}, **parts})


def _is_ns_train(arguments: Sequence[str]) -> bool:
    """Its console script, or its module (`torchrun -m nerfstudio.scripts.train`)."""
    return bool(arguments) and (
        Path(arguments[0]).stem == "ns-train" or Path(arguments[0]).parts[-3:] == ("nerfstudio", "scripts", "train.py")
    )


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name."""
    if isinstance(config, Mapping):
        members = list(config.items())
    else:
        members = [(member.name, getattr(config, member.name)) for member in fields(config)]
    for name, value in members:
        if isinstance(value, Group):
            yield from _leaves(value, prefix)
            continue
        if _has_parts(value):
            yield f"{prefix}{name}", type(value)
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _has_parts(value: Any) -> bool:
    """Whether it is a configuration of its own; a class that could make one is none."""
    return (is_dataclass(value) and not isinstance(value, type)) or (isinstance(value, Mapping) and bool(value))
