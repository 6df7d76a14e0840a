"""The checks of values, and their messages: what was given, and what is expected."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from shakespeare_lm.errors import (
    UserError,
    as_list,
    check_at_least,
    check_at_most,
    check_axes,
    check_choice,
    check_fraction,
    check_positive,
    check_probability,
    check_type,
    check_types,
    import_extra,
    one_line,
)


def at_least_2(**values: float) -> None:
    check_at_least(2, **values)


def at_most_3(**values: float) -> None:
    check_at_most(3, **values)


@pytest.mark.parametrize(
    ("check", "valid", "invalid", "expected"),
    [
        (at_least_2, [2, 2.5, 10**30], [1, 1.999, -math.inf, math.inf, math.nan], "a value >= 2"),
        (at_most_3, [3, -1], [4, math.inf, math.nan], "at most 3"),
        (check_positive, [1, 1e-300], [0, -1.0, math.inf, math.nan, 10**400], "a value > 0"),
        (check_fraction, [0, 0.0, 0.999], [1, -0.001, math.inf, math.nan], "0 <= rate < 1"),
        (check_probability, [0.001, 1, None], [0, 1.001, -1, math.nan], "0 < rate <= 1"),
    ],
)
def test_the_first_value_out_of_range_is_named(
    check: Callable[..., None], valid: list, invalid: list[float], expected: str
) -> None:
    for good in valid:
        check(rate=good)
        for bad in invalid:
            with pytest.raises(UserError, match=f"^rate is {bad}: expected {expected}$"):
                check(other=good, rate=bad, last=invalid[0])


def test_a_value_not_among_the_choices_is_refused_with_their_list() -> None:
    check_choice("norm", "post", ("pre", "post"))
    for value in ("", "PRE", None, 3):
        with pytest.raises(UserError, match=f"^norm is '{value}': choose from: pre, post$"):
            check_choice("norm", value, ("pre", "post"))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 3), (int | None, None), (bool, True), (float, 1), (float, np.float64(0.5)),
        (str, "x"), (str, np.str_("x")), (str | Path, Path("x")),
    ],
)  # fmt: skip
def test_a_value_of_the_annotated_type_passes(hint: Any, value: object) -> None:
    check_type(hint, option=value)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, "3", "option is '3': expected int"),
        (int, True, "option is True: expected int"),
        (int, np.int64(3), f"option is {np.int64(3)!r}: expected int"),
        (int | None, "x\ny", "option is 'x\\ny': expected int or None"),
        (float, True, "option is True: expected float"),
        (str | Path, np.eye(2), "option is array([[1., 0.], [0., 1.]]): expected str or Path"),
    ],
)
def test_a_value_of_another_type_is_named_as_it_was_given(
    hint: Any, value: object, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_type(hint, option=value)
    assert str(caught.value) == message


def test_one_value_or_several_become_a_list() -> None:
    assert as_list("stop", "ab", str) == ["ab"]
    assert as_list("stop", ("a", "b"), str) == ["a", "b"]
    assert as_list("stop", (letter for letter in "ab"), str) == ["a", "b"]
    assert as_list("stop", [], str) == []
    for value in (3, None, b""):
        with pytest.raises(UserError, match=f"^stop is {value}: expected str, or a list of them$"):
            as_list("stop", value, str)
    with pytest.raises(UserError, match=r"^stop\[1\] is 3: expected str$"):
        as_list("stop", ["a", 3], str)


def test_a_tensor_with_other_axes_is_refused() -> None:
    check_axes("ids", (3, 5), "batch", "time")
    for shape, shown in [((5,), "(5,)"), ((), "()"), ((1, 2, 3), "(1, 2, 3)")]:
        with pytest.raises(UserError) as caught:
            check_axes("ids", shape, "batch", "time")
        assert str(caught.value) == f"ids has shape {shown}: expected [batch, time]"


@dataclass
class Options:
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    width: int | None = None
    norm: Literal["pre", "post"] = "pre"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1.0}, "count is '1.0': expected int"),
        ({"count": True}, "count is 'True': expected int"),
        ({"rate": True}, "rate is 'True': expected float"),
        ({"rate": np.float64(0.5)}, "rate is '0.5': expected float"),
        ({"flag": 0}, "flag is '0': expected bool"),
        ({"width": 3.0}, "width is '3.0': expected int or None"),
        ({"norm": "both"}, "norm is 'both': choose from: pre, post"),
        ({"rate": "x", "norm": "both"}, "rate is 'x': expected float"),
    ],
)
def test_an_attribute_of_another_type_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        check_types(Options(**options), Options)


def test_attributes_that_are_not_annotated_or_of_their_types_pass() -> None:
    @dataclass
    class More(Options):
        other: int = 0

    for options in ({}, {"rate": 1}, {"width": 3}, {"flag": True, "norm": "post"}, {"other": "x"}):
        check_types(More(**options), Options)
    with pytest.raises(UserError, match="other is 'x'"):
        check_types(More(other="x"), More)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["x" * 1_000_000, ["x" * 1_000_000]], ids=["str", "list"])
def test_a_huge_value_makes_a_short_message(value: Any) -> None:
    for check in (
        lambda: check_types(Options(count=value), Options),
        lambda: check_type(int, count=value),
        lambda: check_choice("norm", value, ("pre", "post")),
    ):
        with pytest.raises(UserError) as caught:
            check()
        assert len(str(caught.value)) < 200


def test_a_missing_package_is_refused_with_the_line_that_installs_it() -> None:
    assert import_extra("math", "serve", "the server") is math
    message = r"^the server needs no_such: pip install 'shakespeare-lm\[serve\]'"
    with pytest.raises(UserError, match=message):
        import_extra("no_such", "serve", "the server")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("one\n  two\tthree "), "one two three"),
        (FileNotFoundError(2, "No such file", "a.txt"), "a.txt: No such file"),
        (OSError(28, "No space left"), "No space left"),
        (OSError("a\nb"), "a b"),
        (KeyboardInterrupt(), ""),
    ],
)
def test_an_error_is_printed_as_one_line(error: BaseException, line: str) -> None:
    assert one_line(error) == line
