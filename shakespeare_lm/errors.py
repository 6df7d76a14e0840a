"""Mistakes that a user can correct, and the checks that find them.

The commands print a `UserError` as one line without a traceback and exit with code 1; any other
exception is a bug in this package.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from inspect import signature
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

_LARGEST = sys.float_info.max  # integers can be larger
# Control characters (C0, DEL, C1), and bidirectional embeddings, overrides and isolates.
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in "\t\n"}


class UserError(ValueError):
    """A mistake that the user can correct: it names the option, its value and what is expected."""


def import_extra(name: str, extra: str, purpose: str) -> Any:
    """Import the package `name`, which an extra of this one installs. If it is missing, a
    `UserError` says what needs it (its first words are `purpose`) and how to install it.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f"{purpose} needs {name}: pip install 'shakespeare-lm[{extra}]' (in this repository: "
            f"pip install -e '.[{extra}]')"
        ) from None


def check_at_least(minimum: int, **values: float) -> None:
    """Raise a `UserError` that names the first value below the minimum, infinite or NaN."""
    _check_each(values, lambda value: minimum <= value <= _LARGEST, f"a value >= {minimum}")


def check_at_most(maximum: int, **values: float) -> None:
    """Raise a `UserError` that names the first value above the maximum."""
    _check_each(values, lambda value: value <= maximum, f"at most {maximum}")


def check_positive(**values: float) -> None:
    """Raise a `UserError` that names the first value that is not positive and finite."""
    _check_each(values, lambda value: 0 < value <= _LARGEST, "a value > 0")


def check_fraction(**values: float) -> None:
    """Raise a `UserError` that names the first value outside 0 <= value < 1."""
    _check_each(values, lambda value: 0 <= value < 1, "0 <= {name} < 1")


def check_probability(**values: float | None) -> None:
    """Raise a `UserError` that names the first value outside 0 < value <= 1; None passes."""
    given = {name: value for name, value in values.items() if value is not None}
    _check_each(given, lambda value: 0 < value <= 1, "0 < {name} <= 1")


def _check_each(
    values: Mapping[str, float], is_valid: Callable[[float], bool], expected: str
) -> None:
    for name, value in values.items():
        if not is_valid(value):
            raise UserError(f"{name} is {value}: expected {expected.format(name=name)}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise a `UserError` if the value is not one of the choices."""
    if value not in tuple(choices):
        raise UserError(f"{name} is {str(value)[:80]!r}: choose from: {', '.join(choices)}")


def check_option_names(
    options: Iterable[str], function: Callable[..., object], config: type
) -> None:
    """Raise a `UserError` that names the first option that is neither an argument of the function
    nor a field of the dataclass that takes its `**options`.
    """
    named = [name for name, p in signature(function).parameters.items() if p.kind != p.VAR_KEYWORD]
    for name in options:
        check_choice("option", name, [*named, *(field.name for field in fields(config))])


def check_type(hint: Any, **values: object) -> None:
    """Raise a `UserError` that names the first value that is not of the annotated type.

    An int passes for a float, but a bool does not pass for an int.
    """
    for name, value in values.items():
        if not _fits(value, hint):
            raise UserError(f"{name} is {_shown(value)}: expected {_names(hint)}")


def as_list(name: str, value: object, hint: Any) -> list[Any]:
    """Return one value of the annotated type, or several, as a list; a `UserError` names the first
    value of another type.
    """
    if _fits(value, hint):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise UserError(f"{name} is {_shown(value)}: expected {_names(hint)}, or a list of them")
    values = list(value)
    check_type(hint, **{f"{name}[{number}]": item for number, item in enumerate(values)})
    return values


def check_types(config: object, annotated: type) -> None:
    """Raise a `UserError` that names the first attribute of another type than `annotated` says.

    Types are compared exactly, but an int passes for a float: a checkpoint with, say, NumPy's
    subclass of float could not be loaded.
    """
    for name, hint in get_type_hints(annotated).items():
        if get_origin(hint) is ClassVar:
            continue
        value = getattr(config, name)
        if get_origin(hint) is Literal:
            check_choice(name, value, get_args(hint))
        elif type(value) not in _types(hint):
            raise UserError(f"{name} is {str(value)[:80]!r}: expected {_names(hint)}")


def check_axes(name: str, shape: Sequence[int], *axes: str) -> None:
    """Raise a `UserError` if a tensor of this shape has another number of axes."""
    if len(shape) != len(axes):
        raise UserError(f"{name} has shape {tuple(shape)}: expected [{', '.join(axes)}]")


def _types(hint: Any) -> tuple[type, ...]:
    """Return the types that fit a type or a union of types; an int fits a float."""
    types = get_args(hint) or (hint,)
    return (*types, int) if float in types else types


def _fits(value: object, hint: Any) -> bool:
    types = _types(hint)
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _names(hint: Any) -> str:
    types = get_args(hint) or (hint,)
    return " or ".join("None" if t is type(None) else t.__name__ for t in types)


def _shown(value: object) -> str:
    """Return a value as Python code, in one short line: tensors are printed in several."""
    return " ".join(repr(value).split())[:80]


def one_line(error: BaseException) -> str:
    """Return the message as the commands print it: without line breaks or error numbers."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return printable(" ".join(message.split()))


def printable(text: str) -> str:
    """Return an untrusted text with escapes for the characters that would control a terminal."""
    return text.translate(_ESCAPES)
