"""Ranges of settings, declared beside the field and checked when a group of settings is made.

    @dataclass
    class Render:
        fps: Annotated[int, Ge(1), Le(240)] = 20

        def __post_init__(self) -> None:
            check_ranges(self)

Bounds are those of `annotated_types`. None and text ("auto") are no numbers and pass; every number of a tuple is
checked; a number that is not finite is never in range.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from pds_nerfstudio.errors import UserError

Guidance = Annotated[float, Ge(0), Le(1000)]
"""Weight of classifier-free guidance; 1 is none. The papers use 7.5 to 100."""
LearningRate = Annotated[float, Gt(0), Le(10)]
"""Of Adam, which moves a value by about so much in a step."""
Pixels = Annotated[int, Ge(8), Le(8192)]
"""Shorter side of a picture."""
Seed = Annotated[int, Ge(0), Lt(2**32)]
"""What numpy and torch both take."""
Share = Annotated[float, Ge(0), Le(1)]
"""A part of a whole."""
Steps = Annotated[int, Ge(1), Le(10_000_000)]
"""Of an optimiser or a sampler."""
Weight = Annotated[float, Ge(0), Le(1e6)]
"""Of one loss beside another."""

Bound = Ge | Gt | Le | Lt


def check_ranges(settings: Any, prefix: str = "--", error: type[Exception] = UserError) -> None:
    """Check every number of a dataclass, and of the dataclasses in it, against the bounds of its field.

    Args:
        prefix: what flags of these settings begin with, such as "--pipeline."; "" to name the fields themselves.
        error: what is raised. A `UserError` ends a command of ours; of a `ValueError` tyro makes a message about the
            flag, where it is nerfstudio that reads the command line.

    Raises:
        UserError, or `error`: for the first number that is outside; names it, its value and its range.
    """
    for field in dataclasses.fields(settings):
        check_range(settings, field.name, prefix, error)


def check_range(settings: Any, name: str, prefix: str = "--", error: type[Exception] = UserError) -> None:
    """Check the numbers of one field, see `check_ranges`."""
    value = getattr(settings, name)
    flag = f"{prefix}{name.replace('_', '-')}" if prefix else name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_ranges(value, f"{flag}.", error)
        return
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check(flag, number, _bounds_of(type(settings))[name], error)


def require_steps(config: Any) -> None:
    """Raise UserError where a training of nerfstudio's is asked for less than one step."""
    if config.max_num_iterations < 1:
        raise UserError(f"--max-num-iterations is {config.max_num_iterations}: give at least 1.")


def range_of(settings: type, name: str) -> tuple[Bound, ...]:
    """The bounds of one field, none where it has none."""
    return _bounds_of(settings)[name]


def _check(flag: str, number: float, bounds: tuple[Bound, ...], error: type[Exception]) -> None:
    if not bounds:
        return
    inside = math.isfinite(number) and all(
        number >= bound.ge  # pyright: ignore[reportOperatorIssue]
        if isinstance(bound, Ge)
        else number > bound.gt  # pyright: ignore[reportOperatorIssue]
        if isinstance(bound, Gt)
        else number <= bound.le  # pyright: ignore[reportOperatorIssue]
        if isinstance(bound, Le)
        else number < bound.lt  # pyright: ignore[reportOperatorIssue]
        for bound in bounds
    )
    if not inside:
        raise error(f"{flag} is {number}: give {' and '.join(map(_said, bounds))}.")


def _said(bound: Bound) -> str:
    match bound:
        case Ge():
            return f"at least {bound.ge}"
        case Gt():
            return f"more than {bound.gt}"
        case Le():
            return f"at most {bound.le}"
        case Lt():
            return f"less than {bound.lt}"


@functools.cache
def _bounds_of(settings: type) -> dict[str, tuple[Bound, ...]]:
    """Bounds of every field, by name."""
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: tuple(_bounds_in(hints[field.name])) for field in dataclasses.fields(settings)}


def _bounds_in(hint: Any) -> Iterator[Bound]:
    """Bounds anywhere in a type: Annotated[int, Ge(1)] | None, tuple[Annotated[float, Gt(0)], ...]."""
    if get_origin(hint) is Annotated:
        yield from (bound for bound in hint.__metadata__ if isinstance(bound, Ge | Gt | Le | Lt))
        yield from _bounds_in(hint.__origin__)
    elif get_origin(hint) in (Union, UnionType, tuple, list):
        for part in get_args(hint):
            yield from _bounds_in(part)
