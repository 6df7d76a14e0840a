"""How much of a text is new: by hand on small texts."""

import pytest

from shakespeare_lm.evaluation.novelty import CopiedSpan, novelty

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
