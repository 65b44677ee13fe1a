"""A number outside its field's range is refused when the settings are made, in one sentence."""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

import pytest
import tyro
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.ranges import Share, Steps, check_ranges, range_of


@dataclass
class Inner:
    share: Share = 0.5


@dataclass
class Settings:
    steps: Steps = 3
    rate: Annotated[float, Gt(0), Lt(1)] | None = None
    eta: Annotated[float, Ge(0), Le(1)] | Literal["auto"] = "auto"
    sizes: tuple[Annotated[int, Ge(2)], ...] = (2,)
    free: float = math.nan
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check_ranges(self, error=ValueError)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "--steps is 0: give at least 1 and at most 10000000."),
        ({"rate": 0.0}, "--rate is 0.0: give more than 0 and less than 1."),
        ({"rate": math.nan}, "--rate is nan"),
        ({"rate": 1.0}, "less than 1"),
        ({"eta": -0.1}, "--eta is -0.1"),
        ({"eta": math.inf}, "--eta is inf"),
        ({"sizes": (4, 1)}, "--sizes is 1: give at least 2."),
        ({"inner": Inner(2.0)}, "--inner.share is 2.0"),
    ],
)
def test_what_is_outside_is_named_with_its_range(changes, sentence):
    with pytest.raises(ValueError, match="--") as refused:
        Settings(**changes)
    assert sentence in str(refused.value)


def test_bounds_are_inside_and_what_is_no_number_passes():
    Settings(steps=1, rate=0.5, eta=0.0, sizes=(2, 3))
    Settings(steps=10_000_000, rate=None, eta="auto", sizes=())


def test_a_flag_out_of_range_ends_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as stop:
        tyro.cli(Settings, args=["--steps", "-3"])
    assert stop.value.code == 2
    assert "--steps is -3" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_help_still_names_the_type(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Settings, args=["--help"])
    assert "--steps INT" in capsys.readouterr().out


def groups() -> list[type]:
    """Every group of settings whose ranges are checked as it is made."""
    from pds_nerfstudio.cli import commands
    from pds_nerfstudio.objectives import OBJECTIVES
    from pds_nerfstudio.objectives.inversion import DDPMInversion
    from pds_nerfstudio.objectives.sdedit import SDEdit

    return [*commands().values(), *OBJECTIVES, SDEdit, DDPMInversion]


NUMBERS = [
    (kind, f.name)
    for kind in groups()
    for f in dataclasses.fields(kind)
    if re.search(r"\b(int|float)\b", str(get_type_hints(kind)[f.name]))
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_has_a_range(kind, name):
    bounds = range_of(kind, name)
    assert any(isinstance(bound, Ge | Gt) for bound in bounds), f"{kind.__name__}.{name} has no lower bound"
    assert any(isinstance(bound, Le | Lt) for bound in bounds), f"{kind.__name__}.{name} has no upper bound"


def required(kind: type) -> dict[str, Any]:
    """Something for every field that has no default."""
    none = dataclasses.MISSING
    return {f.name: () for f in dataclasses.fields(kind) if f.default is none and f.default_factory is none}


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
@given(data=st.data())
def test_every_number_is_taken_or_refused_in_a_sentence(kind, name, data):
    if "float" in str(get_type_hints(kind)[name]):
        value = data.draw(st.floats() | st.sampled_from([-1.0, 0.0, -7.0, math.nan, math.inf, 1e10]))
    else:
        value = data.draw(st.integers() | st.sampled_from([-1, 0, 10**30]))
    sentence = refusal(kind, {name: value})
    if sentence is None:
        assert math.isfinite(value)
    else:
        assert str(value) in sentence or name.replace("_", "-") in sentence.replace("_", "-")


def refusal(kind: type, changes: dict[str, Any]) -> str | None:
    try:
        kind(**(required(kind) | changes))
    except (ValueError, UserError) as error:
        return str(error)
    return None
