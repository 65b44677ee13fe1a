"""Files are whole or absent, no link is followed, and only what is ours is removed."""

import contextlib
import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pds_nerfstudio import files
from pds_nerfstudio.errors import UserError, one_sentence
from pds_nerfstudio.files import (
    MARKER,
    file_name,
    fill_in,
    holds_only,
    read_json,
    require_own,
    require_writable,
    start_over,
    visible_files,
    write_whole,
)


def test_only_what_is_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\nlines\n<!-- /x -->\nb <!-- y --> c <!-- /y -->\n")
    fill_in(page, "x", r"| \1 |")
    assert page.read_text() == "a\n<!-- x -->\n| \\1 |\n<!-- /x -->\nb <!-- y --> c <!-- /y -->\n"


def test_a_page_without_the_marks_stays_and_says_so(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a")
    with pytest.raises(ValueError, match="no place for the table"):
        fill_in(page, "x", "b")
    assert page.read_text() == "a"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with contextlib.suppress(ZeroDivisionError), files.written(path) as partial:
        partial.write_text("half")
        _ = 1 / 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_link_planted_beside_a_file_is_not_written_through(tmp_path):
    """The name of the unfinished file used to be `.partial-NAME`."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "out" / "report.json"
    path.parent.mkdir()
    (path.parent / f".partial-{path.name}").symlink_to(victim)
    with files.written(path) as partial:
        assert partial.parent.stat().st_mode & 0o077 == 0
        assert not partial.exists()
        partial.write_text("new")
    assert (victim.read_text(), path.read_text()) == ("precious", "new")


def test_a_link_in_the_files_own_place_is_replaced_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "report.json"
    victim.write_text("precious")
    path.symlink_to(victim)
    write_whole(path, "new")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("precious", "new", False)


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "a.txt"
    child = os.fork()
    if child == 0:
        with files.written(path) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    write_whole(path, "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def killed_writer(path: Path) -> None:
    """What a process leaves that is killed while it writes `path`."""
    child = os.fork()
    if child == 0:
        with files.private_folder(path) as folder:
            (folder / "part").mkdir()
            (folder / "part" / "half").write_text("half")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)


def test_a_private_folder_is_nobody_elses_and_leaves_nothing_after_a_kill(tmp_path):
    killed_writer(tmp_path / "models")
    with files.private_folder(tmp_path / "models") as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert list(tmp_path.iterdir()) == [folder]
        assert not list(folder.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_folder_with_what_a_killed_writer_left_is_as_good_as_empty(tmp_path):
    folder = tmp_path / "out"
    assert files.is_vacant(folder)
    killed_writer(folder / MARKER)
    (folder / "training").mkdir()
    killed_writer(folder / "training" / "settings.json")
    assert files.is_vacant(folder)
    shutil.rmtree(folder / "training")
    start_over(folder, "pds demo", ["a"])  # killed before it could say whose folder this is
    assert not files.is_vacant(folder)
    assert files.is_vacant(folder, MARKER)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(tmp_path / "nowhere")
    assert not files.is_vacant(tmp_path / "linked")


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "log.txt").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        files.appended(tmp_path / "log.txt")
    for text in ("a", "b"):
        with files.appended(tmp_path / "new" / "log.txt") as log:
            log.write(text)
    assert (tmp_path / "new" / "log.txt").read_text() == "ab"
    assert not (tmp_path / "victim").exists()


def test_a_full_disk_is_one_sentence_in_any_librarys_words(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")):
        with pytest.raises(UserError, match=r"no space left for .*a\.ckpt"), files.written(tmp_path / "a.ckpt"):
            raise error


@pytest.mark.parametrize("name", ["a file", "a link to nowhere"])
def test_a_folder_that_cannot_be_made_is_named_before_anything_long(tmp_path, name):
    place = tmp_path / "taken"
    place.touch() if name == "a file" else place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"--out .*cannot be a folder, because .*taken is a file"):
        require_writable(place / "a" / "b")


def test_asking_whether_a_folder_can_be_written_to_leaves_nothing(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


class OnASmallDisk(io.BytesIO):
    """A file that has room for a megabyte."""

    def write(self, content):
        if len(content) > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_a_folder_without_room_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda dir: OnASmallDisk())
    require_writable(tmp_path, room=1 << 20)
    with pytest.raises(UserError, match="has no room for 2 MB"):
        require_writable(tmp_path, room=2 << 20)


@pytest.mark.parametrize("name", ["a", "raise-arms", "ein Bär 2", "x" * 100, "pds-edit[a=1]", "a.b", "000000000001"])
def test_ordinary_names_are_names(name):
    assert file_name(name) == name


HOSTILE = [
    "",
    " ",
    ".",
    "..",
    "../x",
    "/abs",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "x" * 101,
    "é" * 51,
    ".hidden",
    " a",
    3,
    None,
    ["a"],
]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_names_another_place_is_refused(name):
    with pytest.raises(ValueError, match="the name"):
        file_name(name)


@given(st.text(max_size=200))
def test_any_name_that_passes_is_a_file_in_its_folder(text):
    try:
        name = file_name(text)
    except ValueError:
        return
    path = Path("/folder") / f"{name}.json"
    assert os.path.normpath(path) == str(path)
    assert path.parent == Path("/folder")
    assert len(os.fsencode(path.name)) < 255


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_damaged_state_file_is_named_with_a_way_on(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"The record .*record\.json is damaged .*: remove it\."):
        read_json(path, dict, "The record", "remove it")


def test_starting_over_removes_what_the_command_made_and_nothing_else(tmp_path):
    folder = tmp_path / "demo"
    start_over(folder, "pds demo", ["log.txt", "can"])
    (folder / "can").mkdir()
    (folder / "log.txt").touch()
    start_over(folder, "pds demo", ["ball", "log.txt"])
    assert [path.name for path in folder.iterdir()] == [MARKER]
    (folder / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex, which `pds demo` did not make"):
        start_over(folder, "pds demo", ["log.txt"])
    assert (folder / "thesis.tex").exists()


@pytest.mark.parametrize(
    "marker", [None, "{", "[]", '{"made by": "pds demo"}', '{"made by": "another", "entries": ["log.txt"]}']
)
def test_a_folder_that_merely_looks_like_ours_is_left_alone(tmp_path, marker):
    (tmp_path / "log.txt").write_text("mine")
    if marker is not None:
        (tmp_path / MARKER).write_text(marker)
    with pytest.raises(UserError, match="did not make"):
        start_over(tmp_path, "pds demo", ["log.txt"])
    assert (tmp_path / "log.txt").read_text() == "mine"


def test_links_are_not_followed_when_starting_over(tmp_path):
    mine, folder, link = tmp_path / "mine", tmp_path / "demo", tmp_path / "link"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    start_over(folder, "pds demo", ["can"])
    (folder / "can").symlink_to(mine)
    start_over(folder, "pds demo", ["can"])
    assert (mine / "thesis.tex").exists()
    link.symlink_to(folder)
    with pytest.raises(UserError, match="is a link"):
        start_over(link, "pds demo", ["can"])
    assert json.loads((folder / MARKER).read_text())["made by"] == "pds demo"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ENOENT])
def test_what_the_disk_says_is_one_sentence(capfd, number):
    with pytest.raises(SystemExit) as stop, one_sentence():
        raise OSError(number, os.strerror(number), "some/file")
    assert stop.value.code == 1
    assert capfd.readouterr().err.startswith("Error: some/file: ")


def test_other_errors_keep_their_tracebacks():
    with pytest.raises(ConnectionRefusedError), one_sentence():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def test_what_another_program_wrote_under_our_names_is_refused_and_our_own_is_not(tmp_path):
    require_own(tmp_path, ["sheet.png"], "preview.json", "cells")
    (tmp_path / "sheet.png").write_text("theirs")
    (tmp_path / "preview.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a sheet\.png that this command did not make"):
        require_own(tmp_path, ["sheet.png"], "preview.json", "cells")
    (tmp_path / "preview.json").write_text('{"cells": []}')
    require_own(tmp_path, ["sheet.png"], "preview.json", "cells")


def test_a_folder_holds_only_what_is_named_and_what_killed_writers_left(tmp_path):
    files = [Path("a/b.txt")]
    assert holds_only(tmp_path / "new", files)
    write_whole(tmp_path / "a" / "b.txt", "")
    left = tmp_path / "a" / ".partial-0123456789ab-012345-1-abcdefgh"
    left.mkdir()
    (left / "b.txt").touch()
    assert holds_only(tmp_path, files)
    (tmp_path / "b.txt").touch()
    assert not holds_only(tmp_path, files)


def test_hidden_files_and_those_in_hidden_folders_are_left_out(tmp_path):
    folder = tmp_path / ".photographs"
    for name in ("b/1.png", "a.png", ".DS_Store", "._a.png", ".thumbs/a.png", "b/.hidden/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert [str(path.relative_to(folder)) for path in visible_files(folder)] == ["a.png", "b/1.png"]
