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


def losses_of(text: str) -> np.ndarray:
    losses = np.arange(len(text), dtype=float)
    losses[0] = np.nan
    return losses


@pytest.mark.parametrize(
    "groups",
    [
        by_class(TEXT, losses_of(TEXT)),
        by_place_in_word(TEXT, losses_of(TEXT)),
        by_document(losses_of(TEXT), [7, 0, len(TEXT) - 7]),
        by_position(losses_of(TEXT), [7, len(TEXT) - 7], 8),
    ],
)
def test_groups_have_every_predicted_character_and_the_whole_loss(groups: list[Group]) -> None:
    assert sum(one.characters for one in groups) == len(TEXT) - 1
    assert sum(one.share for one in groups) == pytest.approx(1.0)
    total = sum(one.nats * one.characters for one in groups)
    assert total == pytest.approx(np.nansum(losses_of(TEXT)))


def test_characters_have_classes_and_speakers_are_one() -> None:
    found = {one.name: one.characters for one in by_class(TEXT, losses_of(TEXT))}
    assert found == {
        "speaker's name": 5 + 7,  # without the first R, which nothing predicts
        "capital letter": 2,
        "small letter": 9,
        "digit": 1,
        "space": 3,
        "newline": 5,
        "punctuation": 4,
    }


def test_letters_have_a_place_in_their_word() -> None:
    found = {
        one.name: one.characters for one in by_place_in_word("it's late now", losses_of("x" * 13))
    }
    assert found == {
        "between words": 2, "letter 1": 2, "letter 2": 3, "letter 3": 3, "letter 4": 2
    }  # fmt: skip
    found = {one.name: one.characters for one in by_place_in_word(" abcdefgh", losses_of("x" * 9))}
    assert found["letter 6 or later"] == 3


def test_positions_are_ranges_that_double_up_to_the_context() -> None:
    # Targets 1 to 12 of a document with context 5: 5 + 5 + 2 characters have been seen.
    losses = np.array([math.nan, *range(1, 13)])
    found = by_position(losses, [13], 5)
    assert [(one.name, one.characters) for one in found] == [
        ("1", 3), ("2", 3), ("3 to 4", 4), ("5", 2)
    ]  # fmt: skip
    assert found[0].nats == pytest.approx((1 + 6 + 11) / 3)


def test_the_most_surprising_passages_do_not_overlap() -> None:
    losses = np.zeros(1000)
    losses[500:520] = 9.0
    losses[100:110] = 5.0
    text = "".join(chr(97 + i % 26) for i in range(1000))
    first, second, *others = surprising_passages(text, losses, count=5)
    assert first.start <= 500 <= first.start + 40
    assert first.text == text[first.start : first.start + 60]
    assert first.nats == pytest.approx(9.0 * 20 / 60)
    assert second.start <= 100 <= second.start + 50
    assert not others  # nothing else surprises
    assert [one.text for one in surprising_passages("ab", np.array([math.nan, 1.0]))] == ["ab"]


def test_a_breakdown_has_all_kinds_of_groups_and_documents_where_there_are_several() -> None:
    kinds = ["position in the context", "character", "place in the word"]
    assert [*break_down([TEXT], losses_of(TEXT), 8).groups] == kinds
    found = break_down([TEXT[:7], TEXT[7:]], losses_of(TEXT), 8)
    assert [*found.groups] == [*kinds, "document"]
    assert found.passages[0].text == TEXT
