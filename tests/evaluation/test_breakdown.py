"""Where the loss is: every predicted character is in exactly one group of each kind."""

import math

import numpy as np
import pytest

from shakespeare_lm.evaluation.breakdown import (
    Group,
    break_down,
    by_class,
    by_document,
    by_place_in_word,
    by_position,
    surprising_passages,
)

TEXT = "ROMEO:\nO, it's 2 late.\n\nJULIET:\nYes!\n"


def rising(text: str) -> np.ndarray:
    return np.array([math.nan, *range(1, len(text))], dtype=float)


def sizes(groups: list[Group]) -> dict[str, int]:
    return {group.name: group.characters for group in groups}


@pytest.mark.parametrize("groups", [
    by_class(TEXT, rising(TEXT)),
    by_place_in_word(TEXT, rising(TEXT)),
    by_document(rising(TEXT), [7, 0, len(TEXT) - 7]),
    by_position(rising(TEXT), [7, len(TEXT) - 7], 8),
])  # fmt: skip
def test_groups_have_every_predicted_character_and_the_whole_loss(groups: list[Group]) -> None:
    assert sum(sizes(groups).values()) == len(TEXT) - 1
    assert sum(group.share for group in groups) == pytest.approx(1.0)
    total = sum(group.nats * group.characters for group in groups)
    assert total == pytest.approx(np.nansum(rising(TEXT)))


def test_characters_have_classes_and_speakers_are_one() -> None:
    assert sizes(by_class(TEXT, rising(TEXT))) == {
        "speaker's name": 5 + 7,  # without the first R, which nothing predicts
        "capital letter": 2, "small letter": 9, "digit": 1, "space": 3, "newline": 5,
        "punctuation": 4,
    }  # fmt: skip


def test_letters_have_a_place_in_their_word() -> None:
    assert sizes(by_place_in_word("it's late now", rising("x" * 13))) == {
        "between words": 2, "letter 1": 2, "letter 2": 3, "letter 3": 3, "letter 4": 2
    }  # fmt: skip
    assert sizes(by_place_in_word(" abcdefgh", rising("x" * 9)))["letter 6 or later"] == 3


def test_positions_are_ranges_that_double_up_to_the_context() -> None:
    # Targets 1 to 12 of a document with context 5: 5 + 5 + 2 characters have been seen.
    found = by_position(rising("x" * 13), [13], 5)
    assert sizes(found) == {"1": 3, "2": 3, "3 to 4": 4, "5": 2}
    assert found[0].nats == pytest.approx((1 + 6 + 11) / 3)


def test_the_most_surprising_passages_do_not_overlap() -> None:
    losses = np.zeros(1000)
    losses[500:520] = 9.0
    losses[100:110] = 5.0
    text = "".join(chr(97 + i % 26) for i in range(1000))
    first, second = surprising_passages(text, losses, count=5)  # nothing else surprises
    assert first.start <= 500 <= first.start + 40
    assert first.text == text[first.start : first.start + 60]
    assert first.nats == pytest.approx(9.0 * 20 / 60)
    assert second.start <= 100 <= second.start + 50
    assert [one.text for one in surprising_passages("ab", np.array([math.nan, 1.0]))] == ["ab"]


def test_a_breakdown_has_all_kinds_of_groups_and_documents_where_there_are_several() -> None:
    kinds = ["position in the context", "character", "place in the word"]
    assert [*break_down([TEXT], rising(TEXT), 8).groups] == kinds
    found = break_down([TEXT[:7], TEXT[7:]], rising(TEXT), 8)
    assert [*found.groups] == [*kinds, "document"]
    assert found.passages[0].text == TEXT
