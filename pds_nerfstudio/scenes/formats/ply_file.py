"""Tables in .ply files: the vertices that splats are, read and written without a library.

A .ply is a header of text, which names each element with its number of rows and their columns, and then the rows, as
text or as bytes of either order (Turk 1994). The header is not believed: what it promises must be there.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pds_nerfstudio.errors import UserError
from pds_nerfstudio.files import written

TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
LONGEST_HEADER, LONGEST_LINE = 5000, 1000
"""Lines, and bytes of a line. A file of splats has about seventy."""


@dataclass(frozen=True)
class Element:
    """One element of a header."""

    name: str
    rows: int
    columns: tuple[tuple[str, str], ...]
    """Name and numpy type of each."""


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of one element."""

    rows: np.ndarray
    """One structured row for each, with the file's names and types."""
    comments: tuple[str, ...]
    """Of the whole file."""


class Malformed(Exception):
    """What is wrong with a file."""


def read_table(path: Path, name: str = "vertex") -> Table:
    """The element of that name; see `read_tables`."""
    return read_tables(path, name)[name]


def read_tables(path: Path, name: str) -> dict[str, Table]:
    """All elements of a file by their names, as far as they can be read: up to one with lists that follows `name`.

    Raises:
        UserError: none has that name, or the file is no .ply, is cut short, or lists what it does not hold.
    """
    try:
        tables = {}
        with path.open("rb") as file:
            order, elements, comments = _header(file)
            for element in elements:
                if name in tables and _has_lists(element):  # as faces have: what follows is not asked for
                    break
                tables[element.name] = Table(_rows(file, path, order, element), comments)
        if name not in tables:
            raise Malformed(f"it has no {name}")
        return tables
    except (OSError, Malformed) as error:
        raise UserError(f"{path} cannot be read as a .ply ({error}): give a file of Gaussian splats.") from error


def write_table(path: Path, rows: np.ndarray, comments: Sequence[str] = (), text: bool = False) -> None:
    """A structured array as the element `vertex`, little-endian or as text."""
    names = {np.dtype(kind): word for word, kind in TYPES.items() if word.isalpha()}
    columns = [(name, rows.dtype[name].newbyteorder("<")) for name in rows.dtype.names or ()]
    lines = ["ply", f"format {'ascii' if text else 'binary_little_endian'} 1.0"]
    lines += [f"comment {comment}" for comment in comments]
    lines += [f"element vertex {len(rows)}"]
    lines += [f"property {names[kind.newbyteorder('=')]} {name}" for name, kind in columns]
    with written(path) as partial, partial.open("wb") as file:
        file.write("\n".join([*lines, "end_header", ""]).encode())
        if text:
            file.writelines((" ".join(map(repr, row)) + "\n").encode() for row in rows.tolist())
        else:
            file.write(rows.astype(columns).tobytes())


def _header(file: BinaryIO) -> tuple[str, list[Element], tuple[str, ...]]:
    """Order of bytes ("" for text), elements and comments."""
    order, elements, comments = None, [], []
    columns: list[tuple[str, str]] = []
    lines = _lines(file)
    if next(lines, "") != "ply":
        raise Malformed("it does not begin with the word ply")
    for line in lines:
        word, _, rest = line.partition(" ")
        words = rest.split()
        if word == "end_header":
            break
        if word == "comment":
            comments.append(rest)
        elif word == "format" and words and words[0] in FORMATS:
            order = FORMATS[words[0]]
        elif word == "element" and len(words) == 2 and words[1].isascii() and words[1].isdigit():
            columns = []
            elements.append((words[0], int(words[1]), columns))
        elif word == "property" and elements and len(words) == 2 and words[0] in TYPES:
            if words[1] in dict(columns):
                raise Malformed(f"it has two columns {words[1][:40]!r}")
            columns.append((words[1], TYPES[words[0]]))
        elif word == "property" and elements and words[:1] == ["list"]:
            columns.append((words[-1], "list"))
        elif word not in ("obj_info", ""):
            raise Malformed(f"its header has the line {line[:60]!r}")
    else:
        raise Malformed("its header has no end")
    if order is None:
        raise Malformed("its header names no format")
    return order, [Element(name, rows, tuple(columns)) for name, rows, columns in elements], tuple(comments)


def _lines(file: BinaryIO) -> Iterator[str]:
    for _ in range(LONGEST_HEADER):
        line = file.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            return
        yield line.decode("ascii", errors="replace").strip()


def _has_lists(element: Element) -> bool:
    return any(kind == "list" for _, kind in element.columns)


def _rows(file: BinaryIO, path: Path, order: str, element: Element) -> np.ndarray:
    """The rows of an element, from where the file stands."""
    if _has_lists(element):
        raise Malformed(f"its {element.name} has lists, which rows of Gaussians do not")
    kind = np.dtype([(name, order + of) for name, of in element.columns])
    left = path.stat().st_size - file.tell()
    # Even as text a value takes two bytes, so that a count that lies asks for no memory.
    least = kind.itemsize if order else 2 * len(element.columns)
    if element.rows * least > left + (not order):  # the last line of text may lack its end
        raise Malformed(f"it promises {element.rows} rows of {element.name} and ends before")
    if order:
        return np.frombuffer(file.read(element.rows * kind.itemsize), kind, element.rows)
    rows = np.empty(element.rows, kind)
    for i, line in enumerate(itertools.islice(file, element.rows)):
        words = line.split()
        if len(words) != len(element.columns):
            raise Malformed(f"row {i} of {element.name} has {len(words)} values instead of {len(element.columns)}")
        try:
            rows[i] = tuple(map(float, words))
        except (ValueError, OverflowError) as error:
            raise Malformed(f"row {i} of {element.name} holds what is no number of its column's kind") from error
        read = i + 1
        if read == element.rows:
            return rows
    if element.rows:
        raise Malformed(f"it promises {element.rows} rows of {element.name} and ends before")
    return rows
