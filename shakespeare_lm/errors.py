"""Mistakes that a user can correct, and the checks that find them.

The commands print a `UserError` as one line without a traceback and exit with code 1; any other
exception is a bug in this package.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from inspect import signature
from typing import Literal, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """A mistake that the user can correct: the message names the option, its value, and what is
    expected.
    """


def check_at_least(minimum: int, **values: float) -> None:
    """Raise a `UserError` that names the first value below the minimum, infinite or NaN."""
    for name, value in values.items():
        if not minimum <= value < math.inf:
            raise UserError(f"{name} is {value}: expected a value >= {minimum}")


def check_positive(**values: float) -> None:
    """Raise a `UserError` that names the first value that is not positive and finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name} is {value}: expected a value > 0")


def check_fraction(**values: float) -> None:
    """Raise a `UserError` that names the first value outside 0 <= value < 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} is {value}: expected 0 <= {name} < 1")


def check_probability(**values: float | None) -> None:
    """Raise a `UserError` that names the first value outside 0 < value <= 1; None passes."""
    for name, value in values.items():
        if value is not None and not 0 < value <= 1:
            raise UserError(f"{name} is {value}: expected 0 < {name} <= 1")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise a `UserError` if the value is not one of the choices."""
    if value not in tuple(choices):
        raise UserError(f"{name} is {str(value)[:80]!r}: choose from: {', '.join(choices)}")


def check_option_names(
    options: Iterable[str], function: Callable[..., object], config: type
) -> None:
    """Raise a `UserError` that names the first option that neither a function nor the config
    dataclass that it passes its `**options` on to has.
    """
    named = [name for name, p in signature(function).parameters.items() if p.kind != p.VAR_KEYWORD]
    for name in options:
        check_choice("option", name, [*named, *(field.name for field in fields(config))])


def check_types(config: object, annotated: type) -> None:
    """Raise a `UserError` that names the first attribute of another type than `annotated` says.

    An int passes for a float, but a bool does not pass for an int. Values can come from a
    checkpoint that somebody else wrote.
    """
    for name, hint in get_type_hints(annotated).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            check_choice(name, value, get_args(hint))
            continue
        types = get_args(hint) or (hint,)
        if type(value) not in ((*types, int) if float in types else types):
            expected = " or ".join("None" if t is type(None) else t.__name__ for t in types)
            raise UserError(f"{name} is {str(value)[:80]!r}: expected {expected}")


def one_line(error: BaseException) -> str:
    """Return the message as the commands print it: without line breaks or error numbers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
