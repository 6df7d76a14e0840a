"""Where a completion ends, and which characters are shown before that is certain."""

import pytest

from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.errors import UserError


def shown(text: str, *stop: str, max_lines: int | None = None) -> list[str]:
    """Return the text shown after each character, and the rest shown when the text is over."""
    ending = StopStrings(stop, max_lines)
    pieces = []
    for character in text:
        pieces.append(ending.add(character))
        if ending.reached:
            break
    return [*pieces, ending.rest()]


def test_without_an_end_every_character_is_shown_at_once() -> None:
    assert shown("a\nb") == ["a", "\n", "b", ""]


def test_a_stop_string_is_not_part_of_the_completion() -> None:
    assert "".join(shown("one two three", " two")) == "one"
    assert "".join(shown("one", "one")) == ""


def test_a_possible_beginning_is_held_back_until_it_is_certain() -> None:
    assert shown("xaby", "abc") == ["x", "", "", "aby", ""]
    assert shown("aabc", "abc") == ["", "a", "", "", ""]
    assert shown("ab", "abc") == ["", "", "ab"]


def test_a_stop_string_that_starts_within_a_partial_match_is_not_missed() -> None:
    assert "".join(shown("aaab", "aab")) == "a"
    assert "".join(shown("ababac!", "abac")) == "ab"


def test_the_stop_string_that_is_complete_first_ends_it() -> None:
    assert "".join(shown("say stop or halt", "halt", "stop")) == "say "
    assert "".join(shown("abcd", "bcd", "c")) == "ab"


def test_of_stop_strings_that_end_together_the_longest_is_removed() -> None:
    assert "".join(shown("xab", "b", "ab")) == "x"


def test_the_line_that_the_prompt_began_counts() -> None:
    assert "".join(shown("one\ntwo\nthree", max_lines=1)) == "one"
    assert "".join(shown("one\ntwo\nthree", max_lines=2)) == "one\ntwo"
    assert "".join(shown("one\ntwo", max_lines=3)) == "one\ntwo"


def test_the_last_line_ends_even_while_a_partial_match_is_held_back() -> None:
    assert "".join(shown("a.\n\nb", ".\n\n", max_lines=1)) == "a."


def test_after_the_end_nothing_is_shown() -> None:
    ending = StopStrings(["b"])
    assert [ending.add(character) for character in "abc"] == ["a", "", ""]
    assert ending.reached
    assert ending.rest() == ""


def test_an_empty_stop_string_and_less_than_one_line_are_refused() -> None:
    with pytest.raises(UserError, match="stop is an empty string"):
        StopStrings(["a", ""])
    with pytest.raises(UserError, match="max_lines is 0"):
        StopStrings(max_lines=0)


@pytest.mark.parametrize("max_lines", ["2", 1.5, True])
def test_a_number_of_lines_that_is_not_an_integer_is_refused(max_lines: object) -> None:
    with pytest.raises(UserError, match=f"^max_lines is {max_lines!r}: expected int or None$"):
        StopStrings(max_lines=max_lines)  # type: ignore[arg-type]
