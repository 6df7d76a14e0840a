"""Where a completion ends, and which characters are shown before that is certain."""

import re

import pytest

from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.errors import UserError


def shown(text: str, *stop: str, max_lines: int | None = None) -> list[str]:
    """Return the text shown after each character, and the rest shown when the text is over."""
    stops = StopStrings(stop, max_lines)
    pieces = []
    for character in text:
        pieces.append(stops.add(character))
        if stops.reached:
            break
    return [*pieces, stops.rest()]


def test_a_possible_beginning_is_held_back_until_it_is_certain():
    assert shown("a\nb") == ["a", "\n", "b", ""]
    assert shown("xaby", "abc") == ["x", "", "", "aby", ""]
    assert shown("aabc", "abc") == ["", "a", "", "", ""]
    assert shown("ab", "abc") == ["", "", "ab"]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", [" two"], "one"),
        ("one", ["one"], ""),
        # A stop string can start within a partial match.
        ("aaab", ["aab"], "a"),
        ("ababac!", ["abac"], "ab"),
        # Of several, the one that is complete first counts; of these, the longest.
        ("say stop or halt", ["halt", "stop"], "say "),
        ("abcd", ["bcd", "c"], "ab"),
        ("xab", ["b", "ab"], "x"),
    ],
)
def test_a_stop_string_ends_the_completion_and_is_not_part_of_it(text, stop, expected):
    assert "".join(shown(text, *stop)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ["a", ""]}, "stop is an empty string: expected at least one character"),
        ({"max_lines": 0}, "max_lines is 0: expected a value >= 1"),
        ({"max_lines": "2"}, "max_lines is '2': expected int or None"),
        ({"max_lines": 1.5}, "max_lines is 1.5: expected int or None"),
        ({"max_lines": True}, "max_lines is True: expected int or None"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        StopStrings(**options)
