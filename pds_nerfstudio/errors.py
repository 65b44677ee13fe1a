"""The one exception that a user is meant to read."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pds_nerfstudio.text import visible

OF_THE_DISK = {
    errno.ENOSPC: "there is no space left: make room there, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: make room there, or write elsewhere",
    errno.EROFS: "it is on a disk that can only be read: write elsewhere",
    errno.EACCES: "this user may not read or write it: change that, or name another",
    errno.EPERM: "this user may not change it: name another",
    errno.EEXIST: "a file is where a folder should be: name another",
    errno.ENOTDIR: "a file is where a folder should be: name another",
    errno.EISDIR: "a folder is where a file should be: name another",
    errno.ENOENT: "it is not there, or not there any more",
    errno.ENAMETOOLONG: "its name is too long for the disk: give a shorter one",
    errno.ELOOP: "a link is in its place, or links lead in a circle: name another",
    errno.EFBIG: "it has grown too large for the disk",
    errno.EIO: "the disk does not answer as it should",
    errno.ESTALE: "the disk that it is on is gone",
}
"""What the system says about files and folders, in words that tell what to do."""

OF_MEMORY = ("CUDA out of memory", "can't allocate memory")
"""How torch says that memory has run out, on a GPU and elsewhere."""
OUT_OF_MEMORY = "Memory has run out: close what else uses it, or ask for smaller pictures, or fewer at once"


class UserError(Exception):
    """A mistake in the input: shown as one sentence, without a traceback."""


def first_line(error: BaseException) -> str:
    """What an error says, as far as its first line; the error's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Within this block a `UserError`, a file that cannot be read or written, or a lack of memory ends the program.

    One sentence on standard error, exit code 1, no traceback.
    """
    try:
        yield
    except UserError as error:
        _end(str(error), error)
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        place = error.filename2 or error.filename
        place = place.decode(errors="replace") if isinstance(place, bytes) else place
        _end(f"{place or 'A file'}: {OF_THE_DISK[error.errno]}.", error)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OF_MEMORY):
            raise
        _end(f"{OUT_OF_MEMORY} ({first_line(error)}).", error)


def _end(sentence: str, error: BaseException) -> None:
    print(f"Error: {visible(sentence)}", file=sys.__stderr__)  # also where standard error is redirected to a log
    raise SystemExit(1) from error
