"""How much of a text is new, by hand; the longest matches, against trying every piece of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.novelty import CopiedSpan, longest_matches, novelty

TRAIN = ["To be, or not.\nTo sleep.\n", "No more."]


def test_the_share_of_copied_substrings_of_each_length() -> None:
    found = novelty(["be, X", "or"], TRAIN)
    # Of 7 characters all but X; of the pairs b-e e-, ,-space o-r but not space-X; and so on.
    assert found.copied == [6 / 7, 4 / 5, 2 / 3, 1 / 2, 0 / 1]
    assert found.characters == 7


def test_the_longest_copy_has_its_place_in_the_training_part() -> None:
    found = novelty(["Go to sleep. No", " more"], TRAIN)
    assert found.longest == CopiedSpan("o sleep.", TRAIN[0].index("o sleep."), 2)
    assert novelty(["o more"], TRAIN).longest == CopiedSpan("o more", len(TRAIN[0]) + 1, 3)


def test_words_are_known_in_any_case_and_different_ones_are_counted_within_documents() -> None:
    found = novelty(["to BE to be", "to die"], TRAIN)
    assert found.known_words == 5 / 6
    # to be die; to-be be-to to-die of four pairs, none from one document into the next.
    assert found.distinct == [3 / 6, 3 / 4, 2 / 2]


def test_long_texts_are_compared_up_to_100_characters() -> None:
    assert novelty(["x" * 150], ["x" * 120]).copied == [1.0] * 100


@pytest.mark.parametrize("documents", [[], [""], ["?!"]])
def test_a_text_without_words_or_characters_has_figures_too(documents: list[str]) -> None:
    found = novelty(documents, TRAIN)
    assert found.known_words == 0.0
    assert found.distinct == [0.0, 0.0, 0.0]
    assert found.longest.text == ""
    assert found.copied == [0.0] * len("".join(documents))


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
    monkeypatch.setattr("shakespeare_lm.evaluation.novelty._BYTES_PER_CHARACTER", 1 << 50)
    with pytest.raises(UserError, match=r"looking for copies .* use a shorter text"):
        longest_matches(["a"], ["b"])
