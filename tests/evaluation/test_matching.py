"""The longest match at every position, against trying every piece of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation import matching
from shakespeare_lm.evaluation.matching import longest_matches

DOCUMENTS = st.lists(st.text("ab\n", max_size=12), max_size=4)


def by_trying(document: str, start: int, known: list[str]) -> int:
    lengths = range(len(document) - start, -1, -1)
    return next(
        length
        for length in lengths
        if not length or any(document[start : start + length] in text for text in known)
    )


@given(DOCUMENTS, DOCUMENTS)
def test_it_equals_trying_every_piece(documents: list[str], known: list[str]) -> None:
    matches = longest_matches(documents, known)
    expected = [by_trying(text, start, known) for text in documents for start in range(len(text))]
    assert matches.lengths.tolist() == expected
    text, joined = "".join(documents), "".join(known)
    for start, (length, place) in enumerate(zip(*matches, strict=True)):
        assert joined[place : place + length] == text[start : start + length]


def test_a_match_stays_within_one_document_of_each_text() -> None:
    assert longest_matches(["abcd"], ["ab", "cd"]).lengths.tolist() == [2, 1, 2, 1]
    assert longest_matches(["ab", "cd"], ["abcd"]).lengths.tolist() == [2, 1, 2, 1]


def test_any_characters_can_be_compared() -> None:
    matches = longest_matches(["e\u0301😀\ud800x"], ["😀\ud800"])
    assert matches.lengths.tolist() == [0, 0, 2, 1, 0]


def test_a_text_of_one_letter_and_a_copy_of_everything_are_found() -> None:
    text = "a" * 1000
    assert longest_matches([text], [text]).lengths.tolist() == list(range(1000, 0, -1))


def test_texts_too_long_for_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_BYTES_PER_CHARACTER", 1 << 50)
    with pytest.raises(UserError, match=r"looking for copies .* use a shorter text"):
        longest_matches(["a"], ["b"])
