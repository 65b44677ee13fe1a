"""Steering: changes take effect between steps, restore what they say, are kept with the run, and can be replayed."""

import contextlib
import copy
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.methods import METHODS
from pds_nerfstudio.moments import read_moments
from pds_nerfstudio.objectives import DDS, PDS
from pds_nerfstudio.pipelines import history
from pds_nerfstudio.pipelines.panel import Panel
from pds_nerfstudio.pipelines.region_controls import RegionControls
from pds_nerfstudio.pipelines.session import Session
from pds_nerfstudio.pipelines.snapshot import Snapshot
from pds_nerfstudio.pipelines.steering import (
    FURTHER,
    NAMES,
    NOTHING_PICKED,
    SESSION_FILE,
    Change,
    adopt_settings,
    begin_of,
    change_setting,
    read_session,
    settings_at,
    settings_of,
)
from pds_nerfstudio.pipelines.trainer import EditTrainer
from pds_nerfstudio.scenes.source import find_run, load_source_state

from .conftest import PROMPTS
from .test_edit import TOYBOX, scene_of

BEGIN = {"step": 0, "change": "begin", "value": {"prompts": ["a", "b"], "objective": "pds"}}
DENSIFY = (
    *("--pipeline.densify-from", 1, "--pipeline.densify-until", 14, "--pipeline.densify-every", 4),
    *("--pipeline.densify-growth", 3),
)


STENCIL = {
    "pose": [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 3.0],  # from above, as toybox has it
    "fov": 0.8,
    "aspect": 1.0,
    "rectangle": [0.0, 0.0, 0.5, 1.0],
    "adds": True,
}
DRAWN = {"point": None, "grow": 0.0, "invert": False, "drawn": [STENCIL, STENCIL | {"adds": False}, STENCIL]}


@pytest.fixture
def steered(ns_train, monkeypatch, free_port):
    """`steered(requests, method, …)`: an edit with a viewer; `requests`, (change, value) by step, are made meanwhile.

    An entry may be a function of the trainer instead, which is called before the step.
    """
    apply = Session.apply

    def run(requests: dict, method: str, *arguments):
        def asking(self, step):
            for request in requests.get(step, ()):
                request(self._trainer) if callable(request) else self.request(*request)
                apply(self, step)
            apply(self, step)

        monkeypatch.setattr(Session, "apply", asking)
        viewer = ("--vis", "viewer", "--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", free_port())
        config = ns_train(method, *arguments, *viewer)
        monkeypatch.setattr(Session, "apply", apply)
        return config

    return run


class NoScene:
    """A snapshot of `Unchanged`."""

    def copied(self):
        return self

    def put_back(self, *_):
        pass


class Unchanged:
    """As much of a trainer as a session needs that changes settings alone."""

    def __init__(self, folder):
        self.base_dir = folder
        self.optimizers = SimpleNamespace(optimizers={})
        self.pipeline = SimpleNamespace(
            config=pipeline_config("pnr-edit-splat"), region_depends_on=(), source_state=dict
        )


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """`opened(name, changes)`: a session that begins, of which `changes` are a replay's."""
    monkeypatch.setattr(Snapshot, "of", classmethod(lambda *_, **__: NoScene()))
    monkeypatch.setattr(history, "save_snapshot", lambda _, path: (path.parent.mkdir(exist_ok=True), path.touch()))
    monkeypatch.setattr(history, "load_snapshot", lambda _: NoScene())
    monkeypatch.setattr(history.History, "_draw", lambda *_: None)

    def begin(name: str = "live", changes=()) -> Session:
        trainer: Any = Unchanged(tmp_path / name)
        session = Session(trainer, history.History(trainer, every=1000), changes)
        (tmp_path / name / "history").mkdir(parents=True)
        session.begin(0)
        return session

    return begin


def test_a_replay_of_an_undo_can_undo_the_same(opened):
    live = opened()
    for step, request in (
        (2, ("guidance_scale", 9.0)),
        (3, ("prompts", ["a can", "a green can"])),
        (4, ("undo", None)),
        (5, ("redo", None)),
        (6, ("undo", None)),
        (7, ("guidance_scale", 10.0)),  # a slider that moves on: no moment of its own, as the undo is none to undo
        (8, ("box", [0, 0, 0, 1, 1, 1])),
    ):
        live.request(*request)
        live.apply(step)
    again = opened("again", read_session(live._trainer.base_dir / SESSION_FILE)[1:])
    for step in range(2, 10):
        again.apply(step)
    assert list(again.history.moments.taken) == list(live.history.moments.taken)
    assert again.history.moments.undo == ["2.1", "8.1"]
    old = [change for change in read_session(live._trainer.base_dir / SESSION_FILE) if change.change == "restore"]
    for change in old:  # as 0.1.0 wrote them
        del change.value["as"]
    opened("old", old).apply(9)


def test_requests_of_one_step_go_on_from_each_other(opened):
    session, said = opened(), []
    controls = RegionControls.__new__(RegionControls)
    controls._value_of, controls._ask, controls._say = session.value_of, session.request, said.append
    session.request("pick", NOTHING_PICKED | {"point": [0.0, 0.0, 0.0]})
    for how in ("Grow", "Grow", "Grow", "Invert"):
        controls._alter(how)
    session.request("box", [0, 0, 0, 1, 1, 1])
    session.apply(2)
    now = settings_of(session._trainer.pipeline.config)
    assert (now["pick"]["grow"], now["pick"]["invert"], said) == (0.3, True, [])
    session.request("box", [0, 0, 0, 2, 2, 2])
    controls._free()
    session.apply(3)
    now = settings_of(session._trainer.pipeline.config)
    assert (now["pick"], now["box"]) == (None, None)


def test_what_was_asked_for_too_late_is_named(opened):
    session = opened()
    session.request("guidance_scale", 9.0)
    session.request("undo")
    session.end()
    assert session.note == "The edit has ended before this could be made: guidance 9, undo. Start another from it."


def test_what_is_being_typed_stays_when_another_setting_changes():
    config = pipeline_config("pds-edit-splat")
    panel: Any = Panel.__new__(Panel)
    panel._config, panel._followed, panel._asked = config, settings_of(config), set()
    source, target, guidance = (SimpleNamespace(value=value) for value in (config.src_prompt, "a photo of", 40.0))
    panel._settings = {"prompts": [source, target], "guidance_scale": [guidance]}
    change_setting(config, "guidance_scale", 30.0)
    panel.follow()
    assert (target.value, guidance.value) == ("a photo of", 30.0)
    panel._asked, guidance.value = {"guidance_scale"}, -1.0  # was asked for and refused
    panel.follow()
    assert (target.value, guidance.value) == ("a photo of", 30.0)


def test_pages_do_not_steer_an_edit_on_several_gpus(monkeypatch):
    monkeypatch.setattr("pds_nerfstudio.pipelines.distributed.count", lambda: 2)
    trainer, nothing = EditTrainer.__new__(EditTrainer), Any
    trainer._add_panel(nothing, nothing)  # pyright: ignore[reportArgumentType]
    assert trainer.panel is None


@pytest.mark.slow
def test_a_change_of_a_paused_edit_that_its_checkpoint_contains_is_not_made_again(
    steered, ns_train, toy_splats, monkeypatch
):
    edit = ("--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--pipeline.refine-steps", 2)
    straight = steered({4: [("perturb", 0.3)]}, "pnr-edit-splat", *edit, "--max-num-iterations", 8)
    update = EditTrainer._update_viewer_state

    def pause_and_stop(self, step: int):
        update(self, step)
        if step == 3:
            self.session.request("perturb", 0.3)
            self.training_state = "paused"
            self._make_while_paused()
            self._interrupt(15)

    monkeypatch.setattr(EditTrainer, "_update_viewer_state", pause_and_stop)
    stopped = ("--max-num-iterations", 8, "--experiment-name", "stopped", "--history", "scenes")
    with pytest.raises(SystemExit):
        steered({}, "pnr-edit-splat", *edit, *stopped)
    monkeypatch.setattr(EditTrainer, "_update_viewer_state", update)
    (run,) = straight.output_dir.glob("stopped/*/*")
    assert find_run(run).step == 3
    resumed = ns_train("pnr-edit-splat", "--load-dir", run)
    changes = read_session(resumed.get_base_dir() / SESSION_FILE)
    assert [(change.step, change.change) for change in changes] == [(0, "begin"), (4, "perturb")]
    assert read_moments(resumed.get_base_dir() / "history").undo == ["4.1"]
    a, b = (scene_of(config) for config in (straight, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_steered_edit_replays_to_the_bit_also_where_the_replay_is_interrupted(
    steered, ns_train, toy_splats, monkeypatch
):
    seed = EditTrainer._seed
    edit = (
        "--load-dir",
        toy_splats.parent,
        *TOYBOX,
        "--pipeline.refine-steps",
        2,
        "--max-num-iterations",
        18,
        *DENSIFY,
    )
    requests = {
        2: [("prompts", ["a photo of a red can", "a photo of a blue can"])],
        3: [("guidance_scale", 12.0), ("timesteps", [0.3, 0.6])],
        5: [("snapshot", None)],
        8: [("perturb", 0.3)],
        11: [("restore", "snapshot"), ("objective", "dds")],
        13: [("restore", "source")],
        15: [("timesteps", [0.9, 0.1])],  # refused
    }
    live = steered(requests, "pnr-edit-splat", *PROMPTS, *edit)
    log = live.get_base_dir() / SESSION_FILE
    changes = [(change.step, change.change) for change in read_session(log)]
    assert changes == [
        *((0, "begin"), (2, "prompts"), (3, "guidance_scale"), (3, "timesteps"), (5, "snapshot"), (8, "perturb")),
        *((11, "restore"), (11, "objective"), (13, "restore")),
    ]
    # The prompts come from the session; the others are what the command line of the edit said.
    again = ns_train("pnr-edit-splat", *edit, "--replay", log)
    assert (again.get_base_dir() / SESSION_FILE).read_text() == log.read_text()
    straight = ns_train("pnr-edit-splat", *PROMPTS, *edit)
    monkeypatch.setattr(EditTrainer, "_seed", lambda self, step: sys.exit() if step == 10 else seed(self, step))
    with pytest.raises(SystemExit):
        ns_train("pnr-edit-splat", *edit, "--replay", log, "--timestamp", "stopped", "--steps-per-save", 6)
    monkeypatch.setattr(EditTrainer, "_seed", seed)
    resumed = ns_train("pnr-edit-splat", "--load-dir", again.get_base_dir().with_name("stopped"))
    assert (resumed.get_base_dir() / SESSION_FILE).read_text() == log.read_text()
    live, again, straight, resumed = (scene_of(config) for config in (live, again, straight, resumed))
    assert all(torch.equal(live[name], other[name]) for name in live for other in (again, resumed))
    assert not torch.equal(
        live["_model.gauss_params.features_dc"],
        straight["_model.gauss_params.features_dc"][: len(live["_model.gauss_params.features_dc"])],
    )


@pytest.mark.slow
def test_restoring_brings_back_scene_and_optimisers_whatever_densification_did(steered, toy_splats):
    seen = {}

    def remember(name):
        return lambda trainer: seen.__setitem__(name, Snapshot.of(trainer, 0).copied())

    requests = {
        0: [remember("begin")],
        7: [("snapshot", None), remember("at 7")],
        13: [remember("at 13"), ("restore", "snapshot"), remember("back to 7"), ("restore", "source")],
        14: [remember("one after the source")],
    }
    requests[13].append(remember("back to the source"))
    steered(
        requests,
        *("pds-edit-splat", "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 15, *DENSIFY),
    )
    counts = {name: len(kept.scene["_model.gauss_params.means"]) for name, kept in seen.items()}
    assert counts["begin"] == counts["back to the source"]
    assert counts["at 7"] == counts["back to 7"]
    assert len({counts[name] for name in ("begin", "at 7", "at 13")}) == 3
    for restored, original in (("back to 7", "at 7"), ("back to the source", "begin")):
        a, b = seen[restored], seen[original]
        assert all(torch.equal(a.scene[name], b.scene[name]) for name in b.scene)
        assert_same_state(a.optimizers, b.optimizers)
        assert {name: state["last_epoch"] for name, state in a.schedulers.items()} == {
            name: state["last_epoch"] for name, state in b.schedulers.items()
        }
    source = load_source_state(find_run(toy_splats))
    means = "_model.gauss_params.means"
    assert torch.equal(seen["back to the source"].scene[means], source[means])
    moved = seen["one after the source"].scene[means] - source[means]
    assert moved.abs().max() > 0  # the optimisers step the restored parameters, not those that densification replaced


@pytest.mark.slow
def test_back_at_the_source_the_added_gaussians_are_there_again(steered, toy_splats):
    seen = []
    requests = {
        0: [lambda trainer: seen.append(trainer.pipeline.model.means.detach().clone())],
        2: [("restore", "source"), lambda trainer: seen.append(trainer.pipeline.model.means.detach().clone())],
    }
    edit = ("--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 4)
    added = ("--pipeline.new-gaussians", 7, "--pipeline.box", -2, -2, -2, 2, 2, 2)
    after = scene_of(steered(requests, "pds-edit-splat", *edit, *added))["_model.gauss_params.means"]
    assert torch.equal(*seen)
    assert len(after) == len(seen[0]) == 7 + len(load_source_state(find_run(toy_splats))["_model.gauss_params.means"])
    assert not torch.equal(after, seen[0])  # the optimisers step them


@pytest.mark.slow
def test_nerfs_are_restored_too(steered, toy_nerf):
    seen = {}

    def remember(name):
        return lambda trainer: seen.__setitem__(name, Snapshot.of(trainer, 0).copied().scene)

    requests = {2: [remember("edited"), ("restore", "source"), remember("back")]}
    steered(
        requests,
        *("pds-edit", "--load-dir", toy_nerf.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 3),
    )
    source = load_source_state(find_run(toy_nerf))
    fields = [name for name in source if name.startswith("_model.field.mlp_base")]
    assert all(torch.equal(seen["back"][name], source[name]) for name in fields)
    assert not all(torch.equal(seen["edited"][name], source[name]) for name in fields)


@pytest.mark.slow
def test_other_prompts_free_what_they_would_change(steered, toy_splats):
    edit = ("--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--pipeline.change", "relevant")
    sizes = ("--pipeline.resolution", 64, "--pipeline.refine-steps", 0, "--max-num-iterations", 4)
    new = ["a photo of a red can", "a photo of a red can wearing a hat"]
    first, other = (
        load_source_state(find_run(steered(requests, "pnr-edit-splat", *edit, *sizes).get_base_dir()))["_scene.frozen"]
        for requests in ({}, {2: [("prompts", new)]})
    )
    assert 0 < (first != other).float().mean() < 0.9
    assert not other.all()


@pytest.mark.slow
def test_a_resumed_edit_goes_on_with_the_changed_settings_and_keeps_the_log(steered, ns_train, toy_splats):
    new = ["a photo of a red can", "a photo of a blue can"]
    edit = ("--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 6)
    requests = {3: [("prompts", new)], 4: [("objective", "dds"), ("pick", DRAWN)]}
    first = steered(requests, "pds-edit-splat", *edit)
    saved = yaml.load((first.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    assert [saved.pipeline.src_prompt, saved.pipeline.tgt_prompt] == new
    assert type(saved.pipeline.objective) is DDS
    resumed = ns_train("pds-edit-splat", "--load-dir", first.get_base_dir(), "--max-num-iterations", 8)
    assert resumed.pipeline.tgt_prompt == new[1]
    assert settings_of(resumed.pipeline)["pick"] == DRAWN
    states = (load_source_state(find_run(config.get_base_dir())) for config in (first, resumed))
    before, after = (state["_scene.frozen"] for state in states)
    assert 0 < int((~before).sum()) < len(before)
    assert torch.equal(before, after)
    assert (resumed.get_base_dir() / SESSION_FILE).read_text() == (first.get_base_dir() / SESSION_FILE).read_text()


@pytest.mark.slow
def test_a_session_that_cannot_be_read_is_refused_before_anything_is_loaded(ns_train, toy_splats, tmp_path, capfd):
    with pytest.raises(SystemExit):
        ns_train("pds-edit-splat", "--load-dir", toy_splats.parent, *TOYBOX, "--replay", tmp_path / "nowhere.jsonl")
    assert "--replay" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "does not start with the settings"),
        ([{"step": 3, "change": "snapshot"}], "does not start with the settings"),
        ([BEGIN, {"step": 3, "change": "colour", "value": 1}], "Line 2"),
        ([BEGIN, {"when": 3}], "Line 2"),
        ([BEGIN, "no object"], "Line 2"),
    ],
)
def test_a_broken_session_names_the_line(tmp_path, lines, message):
    path = tmp_path / SESSION_FILE
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=message):
        read_session(path)


def assert_same_state(a, b) -> None:
    """Two state dicts of optimisers hold the same, moments to the bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same_state(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_state(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def pipeline_config(method: str):
    config = copy.deepcopy(METHODS[method].config.pipeline)
    config.src_prompt, config.tgt_prompt = "a photo of a can", "a photo of a cone"
    return config


@pytest.mark.parametrize("method", ["pds-edit-splat", "pnr-edit", "piva-edit-splat", "sds-edit"])
def test_settings_can_be_read_changed_and_adopted(method):
    config = pipeline_config(method)
    before = begin_of(config)
    change_setting(config, "guidance_scale", 3.0)
    change_setting(config, "timesteps", [0.25, 0.5])
    change_setting(config, "objective", "pds")
    assert config.objective == PDS(guidance_scale=3.0, min_step_percent=0.25, max_step_percent=0.5)
    fresh = pipeline_config(method)
    adopt_settings(fresh, before)
    assert begin_of(fresh) == before


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("method", ["pds-edit-splat", "piva-edit", "sdedit-refine-splat"])
@given(name=st.sampled_from(NAMES), value=ANYTHING)
@settings(max_examples=150)
def test_whatever_a_setting_is_told_it_takes_or_refuses(method, name, value):
    config = pipeline_config(method)
    before = settings_of(config)
    try:
        change_setting(config, name, value)
    except ValueError:
        assert settings_of(config) == before


@given(
    drawn=st.dictionaries(st.sampled_from((*NAMES, FURTHER)), ANYTHING, max_size=2),
    gone=st.none() | st.sampled_from((*NAMES, FURTHER)),
)
@settings(max_examples=150)
def test_whatever_a_session_begins_with_is_adopted_or_refused(drawn, gone):
    config = pipeline_config("pnr-edit-splat")
    value = begin_of(config) | drawn
    value.pop(gone, None)
    with contextlib.suppress(UserError):
        adopt_settings(config, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompts", ["a can", "a can "]),
        ("prompts", ["a can", " "]),
        ("timesteps", [0.9, 0.1]),
        ("objective", "piva"),  # its adapters have not been made
        ("objective", "magic"),
        ("regularisation", 0.3),
        ("pick", {"point": None, "grow": 0.0, "invert": False, "drawn": [STENCIL | {"fov": 4.0}]}),
        ("pick", {"point": None, "grow": 0.0, "invert": False, "drawn": [{}]}),
    ],
)
def test_changes_that_cannot_work_are_refused_and_change_nothing(name, value):
    config = pipeline_config("pds-edit-splat")
    before = settings_of(config)
    with pytest.raises(ValueError, match=r"\w"):
        change_setting(config, name, value)
    assert settings_of(config) == before


@pytest.mark.slow
def test_an_edit_that_dies_after_a_change_makes_it_again_and_still_has_its_snapshot(steered, toy_splats):
    new = ["a photo of a red can", "a photo of a blue can"]
    edit = ("--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 14, "--steps-per-save", 4)
    early = {3: [("snapshot", None)], 6: [("prompts", new)], 7: [("box", [-2, -2, -2, 2, 2, 2])]}
    late = {11: [("restore", "snapshot")]}
    straight = steered(early | late, "pds-edit-splat", *edit)

    class Killed(Exception):
        pass

    def die(trainer):
        raise Killed

    with pytest.raises(Killed):
        steered({**early, 9: [die]}, "pds-edit-splat", *edit, "--experiment-name", "killed")
    (killed,) = straight.output_dir.glob("killed/*/*")
    assert find_run(killed).step == 8
    resumed = steered(late, "pds-edit-splat", "--load-dir", killed)
    a, b = (scene_of(config) for config in (straight, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert read_session(resumed.get_base_dir() / SESSION_FILE) == read_session(straight.get_base_dir() / SESSION_FILE)

    with pytest.raises(Killed):
        steered({**early, 5: [die]}, "pds-edit-splat", *edit, "--experiment-name", "killed-sooner")
    (sooner,) = straight.output_dir.glob("killed-sooner/*/*")
    named = steered({}, "pds-edit-splat", "--load-dir", sooner, "--pipeline.objective.guidance-scale", 7.5)
    assert named.pipeline.tgt_prompt == PROMPTS[3]
    assert named.pipeline.objective.guidance_scale == 7.5


@pytest.mark.slow
def test_changes_after_an_older_checkpoint_are_not_made_again(steered, ns_train, toy_splats):
    new = ["a photo of a red can", "a photo of a blue can"]
    edit = ("--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX, "--max-num-iterations", 8, "--steps-per-save", 2)
    first = steered({5: [("prompts", new)]}, "pds-edit-splat", *edit, "--save-only-latest-checkpoint", "False")
    back = ns_train("pds-edit-splat", "--load-dir", first.get_base_dir(), "--load-step", 4)
    assert back.pipeline.tgt_prompt == PROMPTS[3]
    assert [change.change for change in read_session(back.get_base_dir() / SESSION_FILE)] == ["begin"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sdedit-refine-splat", "idu-edit-splat"])
def test_dataset_updates_are_steered_too(steered, toy_splats, method):
    new, seen = ["a photo of a red can", "a photo of a blue can"], []
    requests = {
        1: [("snapshot", None)],
        2: [("prompts", new), ("guidance_scale", 3.0), ("strength", [0.2, 0.4]), ("objective", "dds")],
        3: [lambda trainer: seen.append(settings_of(trainer.pipeline.config)), ("restore", "snapshot")],
        4: [("restore", "source")],
    }
    config = steered(
        requests,
        *(method, "--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX[:6], "--max-num-iterations", 6),
        *("--pipeline.num-steps", 3, "--pipeline.update-every", 2),
    )
    assert seen == [{"prompts": new, "guidance_scale": 3.0, "strength": [0.2, 0.4], "box": None, "pick": None}]
    assert config.pipeline.tgt_prompt == PROMPTS[3]  # the snapshot's, and the source's
    assert config.pipeline.guidance_scale != 3.0
    changes = [change.change for change in read_session(config.get_base_dir() / SESSION_FILE)]
    assert changes == ["begin", "snapshot", "prompts", "guidance_scale", "strength", "restore", "restore"]


def test_another_objective_keeps_what_all_have_live_and_replayed():
    live, replayed = (copy.deepcopy(METHODS["pds-edit-splat"].config.pipeline) for _ in range(2))
    live.src_prompt, live.tgt_prompt = "a red ball", "a blue ball"
    live.objective = PDS(guidance_scale=7.5, stride=4, redraw_below=0.1, normalise=0.2)
    changes = [Change(0, "begin", begin_of(live)), Change(3, "objective", "dds")]
    change_setting(live, "objective", "dds")
    adopt_settings(replayed, settings_at(changes, 5))
    assert live.objective == DDS(guidance_scale=7.5, redraw_below=0.1, normalise=0.2)
    assert replayed.objective == live.objective


@pytest.mark.parametrize("line", ["{", "[1]", "[" * 100_000, '{"step": "a", "change": "begin", "value": {}}'])
def test_a_damaged_session_is_refused_in_one_sentence(tmp_path, line):
    path = tmp_path / SESSION_FILE
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"Line 1 of .* take it out"):
        read_session(path)


def test_a_prompt_with_any_letter_is_one_line_of_a_session(tmp_path):
    """Web pages have letters at which Python ends a line; a command line may hold bytes that are no letters."""
    prompt = "a photo\u2028of a\x85\udce4 can"
    change = Change(3, "prompts", [prompt, ""])
    begin = Change(0, "begin", {})
    (tmp_path / SESSION_FILE).write_text("".join(json.dumps(vars(c)) + "\n" for c in (begin, change)))
    assert read_session(tmp_path / SESSION_FILE) == [begin, change]
    of_before = "".join(json.dumps(vars(c), ensure_ascii=False) + "\n" for c in (begin, change))
    (tmp_path / SESSION_FILE).write_text(of_before.replace("\udce4", ""))
    assert read_session(tmp_path / SESSION_FILE)[1].value[0] == prompt.replace("\udce4", "")
