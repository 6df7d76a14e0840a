"""The checks of values, and their messages: what was given, and what is expected."""

import math
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
    one_line,
)


@pytest.mark.parametrize("value", [2, 2.5, 10**30])
def test_a_value_of_at_least_the_minimum_passes(value: float) -> None:
    check_at_least(2, steps=value)


@pytest.mark.parametrize("value", [1, 1.999, -math.inf, math.inf, math.nan])
def test_a_value_below_the_minimum_or_not_finite_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"^steps is {value}: expected a value >= 2$"):
        check_at_least(2, steps=value)


@pytest.mark.parametrize("value", [1, 1e-300])
def test_a_positive_value_passes(value: float) -> None:
    check_positive(rate=value)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_a_value_that_is_not_positive_and_finite_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"^rate is {value}: expected a value > 0$"):
        check_positive(rate=value)


@pytest.mark.parametrize("value", [0, 0.0, 0.999])
def test_a_fraction_can_be_0_but_not_1(value: float) -> None:
    check_fraction(part=value)


@pytest.mark.parametrize("value", [1, -0.001, 1.5, math.inf, math.nan])
def test_a_fraction_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"^part is {value}: expected 0 <= part < 1$"):
        check_fraction(part=value)


@pytest.mark.parametrize("value", [0.001, 1, None])
def test_a_probability_can_be_1_or_none_but_not_0(value: float | None) -> None:
    check_probability(top_p=value)


@pytest.mark.parametrize("value", [0, 1.001, -1, math.nan])
def test_a_probability_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"^top_p is {value}: expected 0 < top_p <= 1$"):
        check_probability(top_p=value)


def test_the_first_of_several_bad_values_is_named() -> None:
    with pytest.raises(UserError, match="b is 0: "):
        check_at_least(1, a=1, b=0, c=-1)
    with pytest.raises(UserError, match="b is 0: "):
        check_positive(a=1, b=0, c=-1)
    with pytest.raises(UserError, match="b is 1: "):
        check_fraction(a=0, b=1, c=-1)
    with pytest.raises(UserError, match="b is 0: "):
        check_probability(a=1, b=0, c=-1)


def test_one_of_the_choices_passes() -> None:
    check_choice("norm", "post", ("pre", "post"))


@pytest.mark.parametrize("value", ["", "PRE", None, 3])
def test_a_value_not_among_the_choices_is_refused_with_their_list(value: object) -> None:
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
        (int, 2.5, "option is 2.5: expected int"),
        (int, True, "option is True: expected int"),
        (int, np.int64(3), f"option is {np.int64(3)!r}: expected int"),
        (int | None, "x\ny", "option is 'x\\ny': expected int or None"),
        (float, "hot", "option is 'hot': expected float"),
        (float, True, "option is True: expected float"),
        (bool, 1, "option is 1: expected bool"),
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


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "stop is 3: expected str, or a list of them"),
        (None, "stop is None: expected str, or a list of them"),
        (b"", "stop is b'': expected str, or a list of them"),
        (["a", 3], "stop[1] is 3: expected str"),
    ],
)
def test_neither_one_value_nor_several_is_refused(value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        as_list("stop", value, str)
    assert str(caught.value) == message


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


@pytest.mark.parametrize("options", [{}, {"rate": 1}, {"width": 3}, {"flag": True, "norm": "post"}])
def test_values_of_the_annotated_types_pass(options: dict[str, Any]) -> None:
    check_types(Options(**options), Options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1.0}, "count is '1.0': expected int"),
        ({"count": True}, "count is 'True': expected int"),
        ({"count": None}, "count is 'None': expected int"),
        ({"rate": "1e-3"}, "rate is '1e-3': expected float"),
        ({"rate": True}, "rate is 'True': expected float"),
        ({"rate": np.float64(0.5)}, "rate is '0.5': expected float"),
        ({"flag": 0}, "flag is '0': expected bool"),
        ({"width": 3.0}, "width is '3.0': expected int or None"),
        ({"norm": "both"}, "norm is 'both': choose from: pre, post"),
        ({"rate": "x", "norm": "both"}, "rate is 'x': expected float"),
    ],
)
def test_a_value_of_another_type_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        check_types(Options(**options), Options)


def test_only_the_annotated_attributes_are_checked() -> None:
    @dataclass
    class More(Options):
        other: int = 0

    check_types(More(other="x"), Options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="other is 'x'"):
        check_types(More(other="x"), More)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["x" * 1_000_000, ["x" * 1_000_000]])
def test_a_huge_value_makes_a_short_message(value: object) -> None:
    with pytest.raises(UserError) as caught:
        check_types(Options(count=value), Options)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200
    with pytest.raises(UserError) as caught:
        check_type(int, count=value)
    assert len(str(caught.value)) < 200
    with pytest.raises(UserError) as caught:
        check_choice("norm", value, ("pre", "post"))
    assert len(str(caught.value)) < 200


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


def test_a_value_above_the_maximum_is_named() -> None:
    check_at_most(3, a=3, b=-1)
    with pytest.raises(UserError, match="b is 4: expected at most 3"):
        check_at_most(3, a=3, b=4)
