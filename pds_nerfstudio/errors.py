"""The one exception that a user is meant to read."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input: shown as one sentence, without a traceback."""


def first_line(error: BaseException) -> str:
    """What an error says, as far as its first line; the error's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Within this block a `UserError` ends the program: its sentence on standard error, exit code 1, no traceback."""
    try:
        yield
    except UserError as error:
        print(f"Error: {error}", file=sys.__stderr__)  # also where standard error is redirected to a log
        raise SystemExit(1) from error
