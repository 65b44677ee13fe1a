"""Which sessions an edit goes on with: its run's own, or one that --replay names."""

import torch
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from pds_nerfstudio.pipelines.base import REACHED
from pds_nerfstudio.pipelines.command_line import Given
from pds_nerfstudio.pipelines.edit_config import EditConfig
from pds_nerfstudio.pipelines.steering import FLAGS, SESSION_FILE, Change, adopt_settings, read_session
from pds_nerfstudio.scenes.source import SourceRun, load_source_state


def continues(config: TrainerConfig, run: SourceRun) -> bool:
    """Whether `run` is an edit of the same kind, between the same prompts as far as any are given."""
    before, now = run.config.pipeline, config.pipeline
    assert isinstance(now, EditConfig)
    return (
        isinstance(before, EditConfig)
        and run.method_name == config.method_name
        and now.src_prompt in ("", before.src_prompt)
        and now.tgt_prompt in ("", before.tgt_prompt)
    )


def session_of(config: TrainerConfig, run: SourceRun, given: Given) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """What was changed in an edit before its checkpoint, and what after it: that is made again, unless an older
    checkpoint was asked for, or the command line says otherwise."""
    path = run.config_path.parent / SESSION_FILE
    if not path.is_file():
        return (), ()
    changes = read_session(path)
    contained, _ = reached(run) or (sum(change.step <= run.step for change in changes), 0)
    after = changes[max(contained, 1) :]
    if config.load_step is not None or config.load_checkpoint is not None:
        after = []
    again = tuple(change for change in after if not any(map(given.within, FLAGS.get(change.change, ()))))
    return tuple(changes[:contained]), again


def reached(run: SourceRun) -> tuple[int, int] | None:
    """How many lines of its session, and moments of its history, a run's checkpoint contains: a change made while the
    edit was paused is one of the next step's. None where a run of 0.1.0 does not say."""
    numbers = load_source_state(run).get(REACHED)
    if not isinstance(numbers, Tensor) or numbers.dtype != torch.int64 or numbers.shape != (2,) or numbers.min() < 0:
        return None
    lines, moments = numbers.tolist()
    return lines, moments


def adopt_replay(config: TrainerConfig) -> tuple[Change, ...]:
    """The settings that a replayed session began with; returns what it changed then."""
    replay = getattr(config, "replay", None)
    if replay is None:
        return ()
    assert isinstance(config.pipeline, EditConfig)
    first, *changes = read_session(replay)
    adopt_settings(config.pipeline, first.value)
    return tuple(changes)


def replays_on(config: TrainerConfig, run: SourceRun) -> bool:
    """Whether an edit goes on that was replaying a session, which then goes on too."""
    replay = getattr(run.config, "replay", None)
    return replay is not None and continues(config, run) and getattr(config, "replay", None) in (None, replay)


def with_what_is_left(
    config: TrainerConfig, run: SourceRun, done: tuple[Change, ...], again: tuple[Change, ...]
) -> tuple[Change, ...]:
    """What is to be made again after a checkpoint, with what the session that the run was replaying changes later."""
    if not replays_on(config, run):
        return again
    config.replay = run.config.replay  # pyright: ignore[reportAttributeAccessIssue]
    replayed, known = read_session(config.replay)[1:], (*done, *again)  # pyright: ignore[reportAttributeAccessIssue]
    left = [change for change in replayed if change.step > run.step and change not in known]
    return tuple(sorted([*again, *left], key=lambda change: change.step))
