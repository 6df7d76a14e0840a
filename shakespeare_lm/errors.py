"""What a user can put right: one exception, whose message is one clear line.

The scripts print it without a traceback and exit with code 1; everything else is a bug.
"""


class UserError(ValueError):
    """A mistake in what the user gave. The message names the thing, the value and what is
    accepted.
    """


def one_line(error: BaseException) -> str:
    """Return the message as the scripts print it: no line breaks, no error numbers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
