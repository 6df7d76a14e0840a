"""Where a completion ends, and what is shown before that is certain."""

import pytest

from shakespeare_lm.completion.stop_strings import Ending
from shakespeare_lm.errors import UserError


def shown(text: str, *stop: str, max_lines: int | None = None) -> list[str]:
    """Return what is shown after each character, up to the end, and what is left then."""
    ending = Ending(stop, max_lines)
    pieces = []
    for character in text:
        pieces.append(ending.add(character))
        if ending.reached:
            break
    return [*pieces, ending.rest()]


def test_without_an_end_every_character_is_shown_at_once() -> None:
    assert shown("a\nb") == ["a", "\n", "b", ""]


def test_a_text_to_stop_at_is_no_part_of_the_completion() -> None:
    assert "".join(shown("one two three", " two")) == "one"
    assert "".join(shown("one", "one")) == ""


def test_a_possible_beginning_is_held_back_until_it_is_certain() -> None:
    assert shown("xaby", "abc") == ["x", "", "", "aby", ""]
    assert shown("aabc", "abc") == ["", "a", "", "", ""]
    assert shown("ab", "abc") == ["", "", "ab"]


def test_a_beginning_within_a_beginning_is_not_missed() -> None:
    assert "".join(shown("aaab", "aab")) == "a"
    assert "".join(shown("ababac!", "abac")) == "ab"


def test_the_first_of_several_to_be_complete_ends_it() -> None:
    assert "".join(shown("say stop or halt", "halt", "stop")) == "say "
    assert "".join(shown("abcd", "bcd", "c")) == "ab"


def test_of_those_complete_together_the_longest_is_left_out() -> None:
    assert "".join(shown("xab", "b", "ab")) == "x"


def test_lines_are_counted_with_the_prompts_own() -> None:
    assert "".join(shown("one\ntwo\nthree", max_lines=1)) == "one"
    assert "".join(shown("one\ntwo\nthree", max_lines=2)) == "one\ntwo"
    assert "".join(shown("one\ntwo", max_lines=3)) == "one\ntwo"


def test_lines_end_while_something_is_held_back() -> None:
    assert "".join(shown("a.\n\nb", ".\n\n", max_lines=1)) == "a."


def test_after_the_end_nothing_is_shown() -> None:
    ending = Ending(["b"])
    assert [ending.add(character) for character in "abc"] == ["a", "", ""]
    assert ending.reached
    assert ending.rest() == ""


def test_an_end_that_could_never_or_always_come_is_refused() -> None:
    with pytest.raises(UserError, match="stop is an empty text"):
        Ending(["a", ""])
    with pytest.raises(UserError, match="max_lines is 0"):
        Ending(max_lines=0)
