"""What a user can put right: one exception, whose message is one clear line.

The scripts print it without a traceback and exit with code 1; everything else is a bug.
"""

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's. The message names the thing, the value and what is accepted."""


def check_at_least_1(**sizes: int) -> None:
    """Raise a `UserError` that names the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} is {size}: at least 1 is needed")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a `UserError` if the value is none of the choices."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}: accepted is {', '.join(choices)}")


def one_line(error: BaseException) -> str:
    """Return the message as the scripts print it: no line breaks, no error numbers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
