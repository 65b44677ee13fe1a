"""Files that are whole or absent, whatever interrupts their writer; folders that are ours to clear; names of files."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from pds_nerfstudio.errors import UserError

LONGEST_NAME = 100
"""Bytes of a name that becomes part of a file's; with what is added to it, it stays below the usual limit of 255."""
MARKER = ".made_by_pds.json"
"""Says which command made a folder, and what it puts there."""
LEFT_OVER = re.compile(r"\.partial-[0-9a-f]{12}-[0-9a-f]{6}-\d+-\w{8}")
"""A folder in which a killed writer has left what was to become a file."""
NO_ROOM = 1 << 16
"""Bytes free on a disk that is full for all purposes."""
T = TypeVar("T")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to, moved to `path` if the block ends well; the folder is made where there is none.

    Raises:
        UserError: the disk is full.
    """
    with private_folder(path) as folder:
        partial = folder / path.name
        try:
            yield partial
            os.replace(partial, path)
        except Exception as error:
            # Libraries have their own words for a full disk: torch a RuntimeError, ffmpeg a broken pipe.
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not isinstance(error, UserError) and (full or shutil.disk_usage(path.parent).free < NO_ROOM):
                raise UserError(f"There is no space left for {path}: make room there, or write elsewhere.") from error
            raise


@contextmanager
def private_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is to be moved there; it is gone after the block.

    Nobody else can write to it, and nobody can foresee its name, so that no link waits there. What killed writers of
    the same path have left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:12]
    prefix = f".partial-{digest}-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]}-"
    for old in path.parent.glob(f"{prefix}*"):
        process = old.name.removeprefix(prefix).partition("-")[0]
        if process.isdigit() and not _is_running(int(process)) and _is_left_over(old):
            shutil.rmtree(old, ignore_errors=True)  # follows no links
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the disk may have gone with it


def appended(path: Path) -> IO[str]:
    """A log to write to at its end, its folder made where there is none.

    Raises:
        OSError: a link is in its place, or it cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf8")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def require_writable(folder: Path, flag: str = "--out", room: int = 1 << 20) -> None:
    """Make sure that `folder` can be made and written to, before anything long is begun. Nothing stays there.

    Args:
        flag: how the user names it.
        room: bytes that there must be room for, at the least.

    Raises:
        UserError: it cannot.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not existing.is_dir():
        raise UserError(f"{flag} {folder} cannot be a folder, because {existing} is a file: give another.")
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(room))
            probe.flush()
    except OSError as error:
        if error.errno == errno.EFBIG:  # a limit on single files: whoever writes a large one will say so
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{flag} {folder} has no room for {room / 2**20:.0f} MB: make room there, or give another folder."
            ) from error
        raise UserError(f"{flag} {folder} cannot be written to ({error.strerror}): give another folder.") from error


def is_vacant(folder: Path, *but: str) -> bool:
    """Whether nothing is there, or nothing but folders, files of these names, and what killed writers have left."""
    return holds_only(folder, [Path(name) for name in but])


def holds_only(folder: Path, files: Collection[Path]) -> bool:
    """Whether every file below is one of these, named from `folder`, or what killed writers have left."""
    if not folder.is_dir():
        return not (folder.exists() or folder.is_symlink())
    return all(
        path.relative_to(folder) in files
        or any(LEFT_OVER.fullmatch(part) for part in path.relative_to(folder).parts)
        or (path.is_dir() and not path.is_symlink())
        for path in folder.rglob("*")
    )


def require_own(folder: Path, names: Iterable[str], index: str, key: str, flag: str = "--out") -> None:
    """Refuse to replace files of these names, unless an earlier call of the same command has left its index there.

    Args:
        index: the JSON file that the command writes.
        key: what that holds, by which it is known.

    Raises:
        UserError: one is there, and no such index.
    """
    with suppress(OSError, ValueError):
        content = from_json(folder / index)
        if isinstance(content, dict) and key in content:
            return
    if there := next((name for name in names if os.path.lexists(folder / name)), None):
        raise UserError(f"{flag} {folder} holds a {there} that this command did not make: give another folder.")


def _is_left_over(path: Path) -> bool:
    return LEFT_OVER.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def file_name(text: object) -> str:
    """`text`, if it can be part of a file's name as it is, wherever that file is.

    Raises:
        ValueError: it could name another folder, is no text, or is too long for a name; says which.
    """
    if not isinstance(text, str):
        raise ValueError(f"the name {text!r} is not a text")
    if not text.strip():
        raise ValueError("the name is empty")
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    if len(text.encode(errors="surrogateescape")) > LONGEST_NAME:
        raise ValueError(f"the name {shown!r} is longer than {LONGEST_NAME} bytes")
    if text.startswith(".") or not text.isprintable() or "/" in text or "\\" in text or text != text.strip():
        raise ValueError(
            f"the name {shown!r} cannot be a file's: it must not begin with a dot, nor hold slashes, control "
            "characters, or spaces at its ends"
        )
    return text


def from_json(source: Path | str) -> Any:
    """What a JSON file, or a text, holds.

    Raises:
        OSError: there is no such file.
        ValueError: it is no JSON, or nested without end.
    """
    try:
        return json.loads(source if isinstance(source, str) else source.read_text(encoding="utf8"))
    except RecursionError as error:
        raise ValueError("it is nested without end") from error


def read_json(path: Path, kind: type[T], what: str, remedy: str) -> T:
    """A JSON file whose outermost value is a `kind`.

    Args:
        what: what the file is, for the message.
        remedy: how to go on without it, for the message.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content: Any = from_json(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{what} {path} is damaged ({reason}): {remedy}.") from error
    if not isinstance(content, kind):
        raise UserError(f"{what} {path} is damaged (it holds {type(content).__name__}, no {kind.__name__}): {remedy}.")
    return content


def start_over(folder: Path, command: str, entries: Iterable[str], flag: str = "--out") -> None:
    """An empty folder for `command`, marked as its own; what an earlier call of it left there is removed.

    Args:
        entries: everything that the command puts into the folder.

    Raises:
        UserError: the folder is a link, or holds anything else.
    """
    made = _entries_of(folder, command)
    if folder.is_symlink():
        raise UserError(f"{flag} {folder} is a link, and links are not followed here: give the folder itself.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} {folder} is a file: give a folder.")
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if other := [name for name in present if name not in made and not _is_left_over(folder / name)]:
        raise UserError(
            f"{flag} {folder} holds {other[0]}, which `{command}` did not make: choose another folder, or remove it "
            "yourself."
        )
    for name in present:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # follows no links
        else:
            path.unlink()
    write_whole(folder / MARKER, json.dumps({"made by": command, "entries": sorted(entries)}) + "\n")


def _entries_of(folder: Path, command: str) -> set[str]:
    """What an earlier call of the command has put into the folder, by its marker."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        marker = from_json(folder / MARKER)
        if marker.get("made by") == command:
            return {MARKER, *map(str, marker.get("entries"))}
    return set()


def visible_files(folder: Path) -> list[Path]:
    """Every file below a folder, in order; not those that systems hide there, such as .DS_Store or ._name.jpg."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def distinct_names(paths: Sequence[Path | str]) -> list[str]:
    """File names without their endings; with a number before them where two of the files share one."""
    names = [Path(path).stem for path in paths]
    return names if len(set(names)) == len(names) else [f"{i:03d}_{name}" for i, name in enumerate(names)]


def write_whole(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), its folder made where there is none."""
    with written(path) as partial:
        partial.write_text(text, encoding="utf8")


def fill_in(path: Path, place: str, text: str) -> None:
    """Replace what stands between the comments <!-- place --> and <!-- /place --> of a Markdown file.

    Raises:
        ValueError: the file has no such place.
    """
    begin, end = f"<!-- {place} -->", f"<!-- /{place} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), flags=re.DOTALL)
    new, found = pattern.subn(lambda _: f"{begin}\n{text}\n{end}", path.read_text(encoding="utf8"))
    if not found:
        raise ValueError(f"{path} has no place for the table: put {begin} {end} there.")
    write_whole(path, new)
