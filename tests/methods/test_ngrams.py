"""N-grams: counts against counting tuples; a Kneser-Ney model by hand, its sums, against a slow
reference, and its figures on the real text.
"""

import math
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shakespeare_lm import hardware
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.ngrams import (
    NGramModel,
    NGrams,
    count_ngrams,
    discounts,
    find_ngrams,
    first_of_document,
    previous,
    tables_of,
)
from tests.methods.conftest import count, kneser_ney, lower_order

REAL = Path(os.environ.get("SHAKESPEARE_LM_DATA", "data")) / "tinyshakespeare.txt"
DOCUMENTS = st.lists(st.text("abc", max_size=10), max_size=4)


def ids_of(text: str, vocabulary: str) -> np.ndarray:
    return np.array([vocabulary.index(character) for character in text], dtype=np.int64)


def counted(documents: list[str], max_order: int) -> list[NGrams]:
    return count_ngrams(ids_of("".join(documents), "abc"), list(map(len, documents)), 3, max_order)


def spelled(orders: list[NGrams], order: int, number: int) -> tuple[int, ...]:
    """Return the ids of an n-gram."""
    context, last = divmod(int(orders[order].codes[number]), 3)
    return (*(spelled(orders, order - 1, context) if order else ()), last)


@settings(deadline=None, derandomize=True)
@given(DOCUMENTS)
def test_every_ngram_is_counted_and_so_are_the_characters_before_it(documents: list[str]) -> None:
    orders = counted(documents, 4)
    expected = count([ids_of(document, "abc").tolist() for document in documents], 4)
    for order, grams in enumerate(orders):
        names = [spelled(orders, order, number) for number in range(len(grams.codes))]
        assert dict(zip(names, grams.counts.tolist(), strict=True)) == expected[order]
        if order < 3:
            found = Counter(dict(zip(names, grams.different.tolist(), strict=True)))
            assert found == lower_order(expected, order + 1)


def test_an_ngram_is_found_by_its_context_and_last_character_within_its_document() -> None:
    counts = counted(["abca"], 2)
    orders = [tables_of(grams, grams.counts, 3) for grams in counts]
    ids = torch.tensor([[0, 1, 1, 2, 0]])  # abbca
    first, second = find_ngrams(orders, ids, 3)
    assert first.tolist() == [[0, 1, 1, 2, 0]]
    assert previous(first).tolist() == [[-1, 0, 1, 1, 2]]
    names = [spelled(counts, 1, n) if n >= 0 else None for n in second[0].tolist()]
    assert names == [None, (0, 1), None, (1, 2), (2, 0)]
    begins = torch.from_numpy(first_of_document([4, 0, 1, 0]))[None]
    assert begins.tolist() == [[True, False, False, False, True]]
    assert find_ngrams(orders, ids, 3, begins)[1].tolist() == [[*second[0, :4].tolist(), -1]]


def test_discounts_are_those_of_the_paper_or_half_where_counts_are_few() -> None:
    # n1 = 4, n2 = 2, n3 = 1, n4 = 0: y = 4 / 8, and k - (k + 1) y n(k+1) / n(k).
    found = discounts(np.array([1, 1, 1, 1, 2, 2, 3]))
    assert found == pytest.approx([0, 1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3])
    assert discounts(np.array([1, 2])).tolist() == [0.0, 0.5, 1.0, 1.0]


def probabilities(train: list[str], text: list[str], vocabulary: str, order: int) -> list[float]:
    """Return the probability of each character of the texts under the model of the last order."""
    lengths = [[len(document) for document in documents] for documents in (train, text)]
    model = NGramModel(ids_of("".join(train), vocabulary), lengths[0], len(vocabulary), order)
    *_, last = model.log_probabilities(ids_of("".join(text), vocabulary), lengths[1])
    return list(np.exp(last))


def test_a_bigram_model_by_hand() -> None:
    # Bigrams aa, ab, bb, once each: discount 1/2. Before a stands a; before b stand a and b, whose
    # count of 2 is discounted by 1. Below: a 1/2 / 3 + (1/2 + 1) / 3 * 1/2 = 5/12, b 7/12.
    after_a = probabilities(["aabb"], ["aa", "ab"], "ab", 2)
    assert after_a[1] == pytest.approx(0.5 / 2 + 1 / 2 * 5 / 12)
    assert after_a[3] == pytest.approx(0.5 / 2 + 1 / 2 * 7 / 12)
    after_b = probabilities(["aabb"], ["ba", "bb"], "ab", 2)
    assert after_b[1] == pytest.approx(0 + 1 / 2 * 5 / 12)
    assert after_b[3] == pytest.approx(0.5 / 1 + 1 / 2 * 7 / 12)
    assert after_b[0] == pytest.approx(7 / 12)  # without a context: the order below


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_it_equals_a_slow_reference(order: int) -> None:
    generator = random.Random(order)
    train = "".join(generator.choices("abcd", weights=[8, 4, 2, 1], k=400))
    text = "".join(generator.choices("abcde", weights=[8, 4, 2, 1, 1], k=60))
    ids, counts = ids_of(text, "abcde").tolist(), count([ids_of(train, "abcde").tolist()], order)
    expected = [kneser_ney(5, ids[:at], counts)[symbol] for at, symbol in enumerate(ids)]
    assert probabilities([train], [text], "abcde", order) == pytest.approx(expected)


def test_an_n_gram_does_not_cross_from_one_document_to_the_next() -> None:
    apart = probabilities(["ab" * 20, "cd" * 20], ["bc"], "abcd", 2)[1]
    joined = probabilities(["ab" * 20 + "cd" * 20], ["bc"], "abcd", 2)[1]
    assert apart < joined
    # In the text too: c comes first in its document, so b before it is no context.
    apart, joined = (probabilities(["bcbc"], text, "bc", 2)[1] for text in (["b", "c"], ["bc"]))
    assert apart != joined
    for short in (["a"], ["a", "", "b"], []):
        found = probabilities(["ab", "", "a"], short, "ab", 4)
        assert len(found) == sum(map(len, short))
        assert all(0 < value < 1 for value in found)


def test_progress_is_told_after_each_order() -> None:
    seen: list[tuple[int, int]] = []
    NGramModel(np.array([0, 1, 0, 1]), [4], 2, 3, lambda *numbers: seen.append(numbers))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_text_too_long_for_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_free_bytes", lambda: 10_000)
    with pytest.raises(UserError, match=r"counting n-grams needs at least .*: use a shorter text"):
        NGramModel(np.zeros(1000, dtype=np.int64), [1000], 2, 3)
    with pytest.raises(UserError, match="max_order is 0: expected a value >= 1"):
        NGramModel(np.zeros(10, dtype=np.int64), [10], 2, 0)


# Measured by another program, in plain Python, on the last tenth of the text.
TINY_SHAKESPEARE = {2: 2.4835, 3: 2.0381, 4: 1.7191, 5: 1.5612, 6: 1.5226, 7: 1.5165, 8: 1.5192}


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs tinyshakespeare.txt in SHAKESPEARE_LM_DATA")
def test_the_losses_on_tiny_shakespeare_are_those_of_another_program() -> None:
    text = REAL.read_text()
    vocabulary = "".join(sorted(set(text)))
    ids, start = ids_of(text, vocabulary), int(0.9 * len(text))
    model = NGramModel(ids[:start], [start], len(vocabulary), 8)
    found = model.log_probabilities(ids[start:], [len(ids) - start])
    losses = {order: -values.mean() for order, values in enumerate(found, start=1)}
    assert losses.pop(1) < math.log(65)
    assert losses == pytest.approx(TINY_SHAKESPEARE, abs=1e-3)
