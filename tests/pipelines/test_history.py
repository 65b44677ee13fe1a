"""What an edit keeps of how it goes: undo and redo bring everything back, also after a resume; room is kept."""

import json

import pytest
import torch
from PIL import Image

from pds_nerfstudio.cli.history import FILM, SHEET, _require_one_size, chosen
from pds_nerfstudio.cli.history import History as Command
from pds_nerfstudio.errors import UserError
from pds_nerfstudio.moments import FOLDER, INDEX, Moment, Moments, read_moments
from pds_nerfstudio.pipelines.history import History, between
from pds_nerfstudio.pipelines.snapshot import Snapshot
from pds_nerfstudio.pipelines.steering import SESSION_FILE, read_session, settings_of

from .conftest import PROMPTS
from .test_edit import TOYBOX
from .test_session import assert_same_state, steered

__all__ = ["steered"]
NEW = ["a photo of a red can", "a photo of a blue can"]


def remember(seen: dict, name: str):
    """A request that keeps everything as it is."""

    def now(trainer):
        seen[name] = Snapshot.of(trainer, 0).copied(), settings_of(trainer.pipeline.config)

    return now


def same(one, other) -> None:
    assert one[1] == other[1]
    assert all(torch.equal(one[0].scene[name], other[0].scene[name]) for name in other[0].scene)
    assert_same_state(one[0].optimizers, other[0].optimizers)
    assert_same_state(one[0].schedulers, other[0].schedulers)


@pytest.mark.slow
def test_undo_and_redo_bring_back_scene_optimisers_and_settings_also_after_a_resume(steered, toy_splats, tmp_path):
    seen = {}
    requests = {
        2: [remember(seen, "before"), ("prompts", NEW), ("guidance_scale", 9.0)],
        4: [("guidance_scale", 9.5), ("guidance_scale", 10.0)],  # a slider that moves on: one change with the first
        5: [remember(seen, "later"), ("undo", None), remember(seen, "one undone")],
        6: [("undo", None), remember(seen, "two undone"), ("undo", None)],  # there is no third
        7: [("redo", None), ("redo", None), remember(seen, "redone"), ("redo", None)],
        8: [("snapshot", "kept"), remember(seen, "kept")],
    }
    edit = ("--load-dir", toy_splats.parent, *PROMPTS, *TOYBOX)
    config = steered(requests, "pds-edit-splat", *edit, "--max-num-iterations", 10)
    same(seen["two undone"], seen["before"])
    same(seen["redone"], seen["later"])
    assert seen["one undone"][1]["prompts"] == NEW
    assert seen["one undone"][1]["guidance_scale"] == seen["before"][1]["guidance_scale"]

    changes = [change.change for change in read_session(config.get_base_dir() / SESSION_FILE)]
    assert changes == ["begin", "prompts", *["guidance_scale"] * 3, *["restore"] * 4, "snapshot"]
    again = steered(
        {11: [("restore", "kept"), remember(seen, "gone back"), ("undo", None)], 12: [("undo", None)]},
        *("pds-edit-splat", "--load-dir", config.get_base_dir(), "--max-num-iterations", 14),
    )
    same(seen["gone back"], seen["kept"])
    moments = read_moments(again.get_base_dir() / FOLDER)
    assert {"0", "2.1", "2.2", "10", "14"} <= set(moments.taken)
    for moment in moments.taken.values():
        assert (again.get_base_dir() / FOLDER / f"{moment.key}.jpg").is_file()
        assert (again.get_base_dir() / FOLDER / f"{moment.key}.pt").is_file() == moment.scene

    Command(again.get_base_dir(), tmp_path / "shown").run()
    with Image.open(tmp_path / "shown" / SHEET) as sheet:
        assert sheet.height > 100 * len(moments.taken)
    assert (tmp_path / "shown" / FILM).stat().st_size > 1000


class NoEdit:
    """As much of a trainer as a history of files needs."""

    def __init__(self, folder):
        self.base_dir = folder


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A history whose scenes take 100 bytes each, of which there is room for five."""
    monkeypatch.setattr(Snapshot, "of", classmethod(lambda cls, *_, **__: cls(0, {}, {}, {}, {}, {})))
    monkeypatch.setattr(
        "pds_nerfstudio.pipelines.history.save_snapshot", lambda snapshot, path: path.write_bytes(b"x" * 100)
    )
    monkeypatch.setattr(History, "_settings", lambda self: {})
    monkeypatch.setattr(History, "_draw", lambda self, key: (self.folder / f"{key}.jpg").write_bytes(b"x"))
    (tmp_path / FOLDER).mkdir()
    return History(NoEdit(tmp_path), every=10, room=500, wanted=["20"])  # pyright: ignore[reportArgumentType]


def kept(history: History) -> list[str]:
    scenes = {path.stem for path in history.folder.glob("*.pt")}
    assert scenes == {key for key, moment in history.moments.taken.items() if moment.scene}
    return [key for key in history.moments.taken if key in scenes]


def test_scenes_between_changes_go_first_and_evenly_and_named_ones_never(history):
    for step in range(100):
        history.reach(step)
    left = kept(history)
    assert len(left) == 5
    assert left[0] == "0"
    assert left[-1] == "90"
    assert "20" in left  # a replay comes back to it
    assert len(history.moments.taken) == len(list(history.folder.glob("*.jpg"))) == 10
    for i in range(4):
        history.name(100, f"number {i}")
    history.changed(history.before(101, "prompts", "other prompts"))
    assert kept(history)[-5:] == ["100.1", "100.2", "100.3", "100.4", "101.1"]
    with pytest.raises(UserError, match="only the picture"):
        history.scene_of("0")
    assert history.find("number 2").key == "100.3"
    with pytest.raises(UserError, match="no moment"):
        history.find("number 9")


def test_a_refused_change_leaves_no_moment(history):
    moment = history.before(7, "prompts", "other prompts")
    history.forget(moment)
    assert not history.moments.taken
    assert [path.name for path in history.folder.iterdir()] == [INDEX]


@pytest.mark.parametrize("room", [250, 150])
def test_going_back_does_not_make_room_by_the_moment_that_it_goes_to(history, room):
    history._room = room
    history.changed(history.before(5, "prompts", "other prompts"))
    history.changed(history.before(30, "box", "a box"))
    target = history.moments.undo[-1]
    history.undone(history.before(40, "restore", "back", target))
    assert kept(history)[-2:] == [target, "40.1"]


def test_what_is_spared_after_a_refused_change_is_the_moment_that_is_left(history):
    history.reach(30)
    history.forget(history.before(31, "box", "a box"))
    assert history.last == "30"


def test_a_full_disk_ends_the_history_and_not_the_edit(history, monkeypatch):
    def full(*_):
        raise UserError("There is no space left.")

    monkeypatch.setattr("pds_nerfstudio.pipelines.history.save_snapshot", full)
    history.reach(0)
    history.reach(10)
    assert not history.moments.taken
    with pytest.raises(UserError, match="no space"):
        history.name(3, "snapshot")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"views": 1, "moments": [{"key": "../1", "step": 1, "settings": {}}], "undo": [], "redo": []}',
        '{"views": 0, "moments": [], "undo": [], "redo": []}',
        '{"views": 1, "moments": [{"key": "1", "step": "1", "settings": {}}], "undo": [], "redo": []}',
        '{"views": 1, "moments": [{"key": "1", "step": 1}], "undo": [], "redo": []}',
        '{"views": 1, "moments": [], "undo": 3, "redo": []}',
        '{"views": 1, "moments": [{"key": "1", "step": 1, "settings": {"prompts": 3}}], "undo": [], "redo": []}',
        '{"views": 1, "moments": [{"key": "1", "step": 1, "settings": []}], "undo": [], "redo": []}',
    ],
)
def test_a_damaged_list_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(UserError, match="damaged"):
        read_moments(tmp_path)


def test_the_list_is_read_as_it_was_written_as_far_as_a_step(tmp_path):
    taken = {key: Moment(key, step, {"box": None}, change, scene=True) for key, step, change in MOMENTS}
    moments = Moments(taken, ["3.1", "8.1"], [], 3)
    moments.write(tmp_path)
    assert read_moments(tmp_path) == moments
    assert json.loads((tmp_path / INDEX).read_text())["views"] == 3
    assert list(read_moments(tmp_path).until(8).taken) == ["0", "3.1", "5"]
    assert read_moments(tmp_path).until(8).undo == ["3.1"]
    assert list(read_moments(tmp_path).until(8, 4).taken) == ["0", "3.1", "5", "8.1"]


MOMENTS = (("0", 0, ""), ("3.1", 3, "prompts"), ("5", 5, ""), ("8.1", 8, "box"), ("10", 10, ""))


def test_a_sheet_shows_the_changes_first_and_evenly_many_others():
    others = [Moment(str(step), step, {}) for step in range(0, 100, 10)]
    change = Moment("45.1", 45, {}, "prompts", "other prompts")
    moments = [*others[:5], change, *others[5:]]
    assert [moment.key for moment in chosen(moments, 4)] == ["0", "40", "45.1", "90"]
    assert chosen(moments, 100) == moments
    assert chosen(moments, 1) == [change]


def test_an_edit_has_some_twenty_moments_and_a_short_one_fewer():
    assert [between(steps) for steps in (1, 100, 500, 30_000)] == [10, 10, 25, 1500]


def test_pictures_of_unlike_sizes_are_named(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path, size in zip(paths, ((64, 32), (64, 32), (66, 32)), strict=True):
        Image.new("RGB", size).save(path)
    _require_one_size(paths[:2], 2)
    with pytest.raises(UserError, match=r"2\.jpg is not of 2 views like the others"):
        _require_one_size(paths, 2)
    with pytest.raises(UserError, match=r"0\.jpg is not of 3 views"):
        _require_one_size(paths, 3)
    paths[1].write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.jpg cannot be read"):
        _require_one_size(paths, 2)
