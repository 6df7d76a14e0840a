"""Counts of n-grams: against counting strings."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shakespeare_lm.methods.ngrams import (
    NGrams,
    count_ngrams,
    discounts,
    find_ngrams,
    next_context,
    place_in_document,
)

DOCUMENTS = st.lists(st.text("abc", max_size=10), max_size=4)


def counted(documents: list[str], max_order: int) -> list[NGrams]:
    ids = np.array(["abc".index(one) for one in "".join(documents)], dtype=np.int64)
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    *_, orders = count_ngrams(ids, lengths, 3, max_order)
    return orders


def spelled(orders: list[NGrams], order: int, number: int) -> str:
    """Return the text of an n-gram."""
    context, last = divmod(int(orders[order].codes[number]), 3)
    return (spelled(orders, order - 1, context) if order else "") + "abc"[last]


@given(DOCUMENTS)
def test_every_ngram_is_counted_and_so_are_the_characters_before_it(documents: list[str]) -> None:
    orders = counted(documents, 4)
    for order, grams in enumerate(orders):
        size = order + 1
        pieces = [text[i : i + size] for text in documents for i in range(len(text) - size + 1)]
        expected = Counter(pieces)
        names = [spelled(orders, order, number) for number in range(len(grams.codes))]
        assert dict(zip(names, grams.counts.tolist(), strict=True)) == expected
        if order < 3:
            before = defaultdict(set)
            for text in documents:
                for i in range(1, len(text) - size + 1):
                    before[text[i : i + size]].add(text[i - 1])
            found = dict(zip(names, grams.different.tolist(), strict=True))
            assert found == {name: len(before[name]) for name in names}


def test_an_ngram_is_found_by_its_context_and_last_character() -> None:
    orders = counted(["abca"], 2)
    ids = np.array([0, 1, 1, 2])  # abbc
    first = find_ngrams(orders[0].codes, np.zeros(4, dtype=np.int64), ids, 3)
    assert first.tolist() == [0, 1, 1, 2]
    context = next_context(first, place_in_document(np.array([4])) > 0)
    assert context.tolist() == [-1, 0, 1, 1]
    second = find_ngrams(orders[1].codes, context, ids, 3)
    assert [spelled(orders, 1, n) if n >= 0 else None for n in second] == [None, "ab", None, "bc"]


def test_discounts_are_those_of_the_paper_or_half_where_counts_are_few() -> None:
    # n1 = 4, n2 = 2, n3 = 1, n4 = 0: y = 4 / 8, and k - (k + 1) y n(k+1) / n(k).
    found = discounts(np.array([1, 1, 1, 1, 2, 2, 3]))
    assert found == pytest.approx([0, 1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3])
    assert discounts(np.array([1, 2])).tolist() == [0.0, 0.5, 1.0, 1.0]
