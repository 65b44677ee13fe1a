"""Files that are whole or absent, whatever interrupts their writer."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, moved there if the block ends well; the folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
