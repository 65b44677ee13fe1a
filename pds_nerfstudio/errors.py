"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake in the input: shown as one sentence, without a traceback."""
