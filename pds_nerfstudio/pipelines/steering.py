"""What can change while an edit runs, one row each: the panel, a session's log and its replay all read these rows.

session.jsonl    {"step": 120, "change": "prompts", "value": ["a photo of a can", "a photo of a blue can"]}
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import from_json
from pds_nerfstudio.moments import SOURCE
from pds_nerfstudio.objectives import BY_NAME, Piva, name_of
from pds_nerfstudio.objectives.controls import CONTROLS
from pds_nerfstudio.pipelines.dataset_update import DatasetUpdateConfig
from pds_nerfstudio.pipelines.distillation import DistillationConfig
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.revise import OF_ANY_OBJECTIVE, ReviseConfig
from pds_nerfstudio.scenes.region import Box
from pds_nerfstudio.scenes.stencil import Stencil

SESSION_FILE = "session.jsonl"
"""Where a run keeps its changes, one JSON object to a line."""
LABELS = {"regularisation": "λ", "guidance_scale": "guidance"}
"""What users are told some settings are called."""
BEGIN = "begin"
"""The change that opens every session: all settings as the edit began."""
FURTHER = "further"
"""Under this name a session's first line keeps what its objective has beyond SETTINGS."""
AS = "as"
"""Under this name a `restore` keeps whether it was an "undo" or a "redo"."""
ACTIONS = ("perturb", "snapshot", "restore")
"""What can be asked for: `perturb` by an η, a `snapshot` by a name, and to `restore` a moment of the history, or the
source: `{"to": key, "settings": what then held}`."""


@dataclass(frozen=True)
class Setting:
    """One thing that can change between two steps."""

    name: str
    """What a session's log calls it."""
    flags: tuple[str, ...]
    """What a command line calls it, without --pipeline."""
    applies: Callable[[Any], bool]
    """Whether an edit with this configuration has it."""
    read: Callable[[Any], Any]
    """Its value, made of what JSON has."""
    write: Callable[[Any, Any], None]
    """Set it. Raises ValueError, TypeError or KeyError where the edit could not go on with that value."""


@dataclass(frozen=True)
class Change:
    """One line of a session."""

    step: int
    """The edit step before which it took effect."""
    change: str
    """BEGIN, or the name of one of SETTINGS or ACTIONS."""
    value: Any = None


def _write_prompts(config: EditConfig, value: Any) -> None:
    before = config.src_prompt, config.tgt_prompt
    source, target = value
    if not (isinstance(source, str) and isinstance(target, str)):
        raise ValueError(f"{value!r} are no two prompts.")
    config.src_prompt, config.tgt_prompt = source.strip(), target.strip()
    try:
        config.check_prompts()
    except UserError as error:
        config.src_prompt, config.tgt_prompt = before
        raise ValueError("the two prompts must differ, and neither may be empty.") from error


def _write_objective(config: DistillationConfig, value: Any) -> None:
    kind = BY_NAME.get(value)
    if kind is None or set(kind().adapters) - set(config.objective.adapters):
        raise ValueError(f"this edit cannot change to {value!r}: start another with it.")
    config.objective = kind(**{name: getattr(config.objective, name) for name in (*OF_ANY_OBJECTIVE, *CONTROLS)})
    _follow(config)


def _follow(config: DistillationConfig) -> None:
    if isinstance(config, ReviseConfig):
        config.by = name_of(config.objective)


def _write_timesteps(config: DistillationConfig, value: Any) -> None:
    low, high = map(float, value)
    config.objective = replace(config.objective, min_step_percent=low, max_step_percent=high)


def _write_strength(config: DatasetUpdateConfig, value: Any) -> None:
    low, high = map(float, value)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"the strengths {low} and {high} are no shares of noise: 0 <= least <= greatest <= 1.")
    config.min_strength, config.max_strength = low, high


def _write_guidance(config: Any, value: Any) -> None:
    if isinstance(config, DistillationConfig):
        config.objective = replace(config.objective, guidance_scale=float(value))
    else:
        config.guidance_scale = float(value)


def _write_regularisation(config: DistillationConfig, value: Any) -> None:
    config.objective = replace(config.objective, regularisation=float(value))  # pyright: ignore[reportCallIssue]


def _write_box(config: EditConfig, value: Any) -> None:
    corners: Any = None if value is None else Box(tuple(map(float, value))).corners  # pyright: ignore[reportArgumentType]
    config.region.box = corners


NOTHING_PICKED: dict[str, Any] = {"point": None, "grow": 0.0, "invert": False, "drawn": []}
"""What `pick` consists of, where nothing is selected."""


def _read_pick(config: EditConfig) -> Any:
    region = config.region
    if region.pick is None and not region.drawn:
        return None
    return {
        "point": None if region.pick is None else list(region.pick),
        "grow": region.pick_grow,
        "invert": region.pick_invert,
        "drawn": [_plain(stencil) for stencil in region.drawn],
    }


def _plain(stencil: Stencil) -> dict[str, Any]:
    """As JSON has it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(stencil).items()}


def _stencil(value: dict[str, Any]) -> Stencil:
    pose, (left, top, right, bottom) = (tuple(map(float, value[name])) for name in ("pose", "rectangle"))
    return Stencil(pose, float(value["fov"]), float(value["aspect"]), (left, top, right, bottom), value["adds"])


def _write_pick(config: EditConfig, value: Any) -> None:
    value = NOTHING_PICKED if value is None else value
    point, grow, invert = (value[name] for name in ("point", "grow", "invert"))
    drawn = tuple(map(_stencil, value.get("drawn", ())))
    if point is not None:
        x, y, z = map(float, point)
        if not all(map(math.isfinite, (x, y, z))):
            raise ValueError(f"{point} is no point.")
        point = x, y, z
    if not -1 <= float(grow) <= 1 or not isinstance(invert, bool):
        raise ValueError("an object is grown by a share of its radius, from -1 to 1, and inverted or not.")
    region = config.region
    region.pick, region.pick_grow, region.pick_invert, region.drawn = point, float(grow), invert, drawn
    region.click = None


def _distils(config: Any) -> bool:
    return isinstance(config, DistillationConfig)


SETTINGS = (
    Setting(
        "prompts",
        ("src_prompt", "tgt_prompt"),
        lambda _: True,
        lambda config: [config.src_prompt, config.tgt_prompt],
        _write_prompts,
    ),
    Setting("objective", ("by", "objective"), _distils, lambda config: name_of(config.objective), _write_objective),
    Setting(
        "guidance_scale",
        ("objective.guidance_scale", "guidance_scale"),
        lambda _: True,
        lambda config: config.objective.guidance_scale if _distils(config) else config.guidance_scale,
        _write_guidance,
    ),
    Setting(
        "timesteps",
        ("objective.min_step_percent", "objective.max_step_percent"),
        _distils,
        lambda config: [config.objective.min_step_percent, config.objective.max_step_percent],
        _write_timesteps,
    ),
    Setting(
        "strength",
        ("min_strength", "max_strength"),
        lambda config: isinstance(config, DatasetUpdateConfig),
        lambda config: [config.min_strength, config.max_strength],
        _write_strength,
    ),
    Setting(
        "regularisation",
        ("objective.regularisation",),
        lambda config: _distils(config) and isinstance(config.objective, Piva),
        lambda config: config.objective.regularisation,
        _write_regularisation,
    ),
    Setting(
        "box",
        ("box",),
        lambda _: True,
        lambda config: None if config.region.box is None else list(config.region.box),
        _write_box,
    ),
    Setting("pick", ("pick", "pick_grow", "pick_invert", "drawn", "click"), lambda _: True, _read_pick, _write_pick),
)
"""`prompts` are source and target; `timesteps` and `strength` the two ends of a range, as fractions; `regularisation`
is Piva's λ; `box` six numbers or None; `pick` the point that an object lies on, how its region is altered and what
was drawn, or None."""
NAMES = tuple(setting.name for setting in SETTINGS)
FLAGS = {setting.name: tuple(f"pipeline.{flag}" for flag in setting.flags) for setting in SETTINGS}


def settings_of(config: EditConfig) -> dict[str, Any]:
    """The present value of everything in SETTINGS that this edit has."""
    return {setting.name: setting.read(config) for setting in SETTINGS if setting.applies(config)}


def change_setting(config: EditConfig, name: str, value: Any) -> None:
    """Set one of SETTINGS; the next step goes by it.

    Raises:
        ValueError: with that value the edit could not go on; nothing has changed.
    """
    setting = next((setting for setting in SETTINGS if setting.name == name), None)
    if setting is None or not setting.applies(config):
        raise ValueError(f"this edit has no {name}.")
    try:
        setting.write(config, value)
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"{value!r} is no value for {name}.") from error


def begin_of(config: EditConfig) -> dict[str, Any]:
    """What a session's first line holds: `settings_of`, and the objective's further settings."""
    begin = settings_of(config)
    if isinstance(config, DistillationConfig):
        known = {*OF_ANY_OBJECTIVE, "regularisation"}
        begin[FURTHER] = {name: value for name, value in vars(config.objective).items() if name not in known}
    return begin


def adopt_settings(config: EditConfig, settings: dict[str, Any]) -> None:
    """Begin with these settings (see `begin_of`), before anything is built.

    Raises:
        UserError: they are not those of such an edit.
    """
    try:
        if isinstance(config, DistillationConfig):
            kind = BY_NAME[settings["objective"]]
            own = config.objective if type(config.objective) is kind else kind()
            config.objective = replace(own, **settings.get(FURTHER, {}))
            _follow(config)
        for setting in SETTINGS:
            if setting.name != "objective" and setting.applies(config) and setting.name in settings:
                setting.write(config, settings[setting.name])
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise UserError(
            f"The session's first line does not fit this method ({error}): replay it with its own."
        ) from error


def read_session(path: Path) -> list[Change]:
    """The changes that `path` holds.

    Raises:
        UserError: the file is missing, or a line of it is not a change.
    """
    try:
        # Not splitlines, which also ends a line at what a prompt from a web page may hold, such as U+2028.
        text = Path(path).read_text(encoding="utf8")
        lines = text.removesuffix("\n").split("\n") if text else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--replay {path} cannot be read ({error}): give the {SESSION_FILE} of an edit's run."
        ) from error
    changes = []
    for number, line in enumerate(lines, 1):
        try:
            change = Change(**from_json(line))
            if (
                type(change.step) is not int
                or not isinstance(change.change, str)
                or (change.change == BEGIN and not isinstance(change.value, dict))
            ):
                raise ValueError("a step is a whole number, and the first line's value an object")
        except (ValueError, TypeError) as error:
            raise UserError(f"Line {number} of {path} is no change of an edit ({error}): take it out.") from error
        if change.change not in (BEGIN, *NAMES, *ACTIONS):
            raise UserError(f"Line {number} of {path} names {change.change!r}, which no edit can change: take it out.")
        changes.append(change)
    if not changes or changes[0].change != BEGIN:
        raise UserError(f"{path} does not start with the settings the edit began with: give a whole {SESSION_FILE}.")
    return changes


def settings_at(changes: Iterable[Change], step: int) -> dict[str, Any]:
    """What `begin_of` would have said before edit step `step` of this session."""
    first, *later = changes
    settings = dict(first.value)
    for change in later:
        if change.step < step and change.change in NAMES:
            if change.change == "objective" and change.value != settings.get("objective"):
                # Another objective begins with its own, and keeps what it shares with all.
                further = settings.pop(FURTHER, {})
                settings[FURTHER] = {name: further[name] for name in CONTROLS if name in further}
            settings[change.change] = change.value
        elif change.step < step and change.change == "restore" and is_way_back(change.value):
            settings = dict(change.value["settings"])
    return settings


def is_way_back(value: Any) -> bool:
    """Whether a `restore` has all that it takes; a log may come from anywhere."""
    return isinstance(value, dict) and isinstance(value.get("to"), str) and isinstance(value.get("settings"), dict)


def said(name: str, value: Any) -> str:
    """A change in words, also one that will be refused."""
    with suppress(TypeError, ValueError, LookupError):
        return _said(name, value)
    return f"{name} {value!r}"


def _said(name: str, value: Any) -> str:
    if name == "restore":
        key = value["to"]
        return "back to the source" if key == SOURCE else f"back to step {key.partition('.')[0]}"
    if name == "snapshot":
        return f"kept as {value!r}"
    if name == "prompts":
        return f"{value[0]!r} to {value[1]!r}"
    if name == "perturb":
        return f"perturbed by η {float(value):g}"
    if name == "pick":
        if value is None:
            return "nothing is picked"
        drawn = value.get("drawn") or ()
        by = f"as drawn, rectangle {len(drawn)}"
        if value["point"] is None:
            return f"what may change is {by}"
        grown = f", grown by {value['grow']:g} of its radius" if value["grow"] else ""
        after = f", and {by}" if drawn else ""
        return f"{'only what is not of' if value['invert'] else 'only'} the object clicked on may change{grown}{after}"
    if name == "box":
        return "everything may change" if value is None else "only what is in the box may change"
    words = " to ".join(map(_short, value)) if isinstance(value, list | tuple) else _short(value)
    return f"{LABELS.get(name, name.replace('_', ' '))} {words}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
