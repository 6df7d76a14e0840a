"""N-grams: counts against counting strings; a Kneser-Ney model by hand, its sums, against a slow
reference, and its figures on the real text.
"""

import itertools
import math
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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

REAL = Path(os.environ.get("SHAKESPEARE_LM_DATA", "data")) / "tinyshakespeare.txt"
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
    counts = counted(["abca"], 2)
    orders = [tables_of(grams, grams.counts, 3) for grams in counts]
    ids = torch.tensor([[0, 1, 1, 2]])  # abbc
    first, second = find_ngrams(orders, ids, 3)
    assert first.tolist() == [[0, 1, 1, 2]]
    assert previous(first).tolist() == [[-1, 0, 1, 1]]
    names = [spelled(counts, 1, n) if n >= 0 else None for n in second[0].tolist()]
    assert names == [None, "ab", None, "bc"]


def test_an_ngram_is_found_within_its_document_only() -> None:
    orders = [tables_of(grams, grams.counts, 3) for grams in counted(["abcabc"], 2)]
    ids = torch.tensor([[0, 1, 2, 0]])  # abca, of which ca begins a document
    documents = torch.from_numpy(first_of_document(np.array([3, 0, 1, 0])))[None]
    assert documents.tolist() == [[True, False, False, True]]
    assert (find_ngrams(orders, ids, 3)[1] >= 0).tolist() == [[False, True, True, True]]
    found = find_ngrams(orders, ids, 3, documents)[1]
    assert (found >= 0).tolist() == [[False, True, True, False]]


def test_discounts_are_those_of_the_paper_or_half_where_counts_are_few() -> None:
    # n1 = 4, n2 = 2, n3 = 1, n4 = 0: y = 4 / 8, and k - (k + 1) y n(k+1) / n(k).
    found = discounts(np.array([1, 1, 1, 1, 2, 2, 3]))
    assert found == pytest.approx([0, 1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3])
    assert discounts(np.array([1, 2])).tolist() == [0.0, 0.5, 1.0, 1.0]


def ids_of(text: str, vocabulary: str) -> np.ndarray:
    return np.array([vocabulary.index(character) for character in text], dtype=np.int64)


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


def reference(train: str, context: str, character: str, vocabulary: str, order: int) -> float:
    """Interpolated modified Kneser-Ney, one probability at a time, as the paper has it."""
    below = 1 / len(vocabulary)
    for n in range(1, order + 1):
        grams = Counter(train[i : i + n] for i in range(len(train) - n + 1))
        if n < order:
            before = defaultdict(set)
            for i in range(len(train) - n):
                before[train[i + 1 : i + n + 1]].add(train[i])
            grams = Counter({gram: len(found) for gram, found in before.items()})
        history = context[len(context) - n + 1 :] if n > 1 else ""
        if len(history) < n - 1:
            return below
        many = Counter(min(count, 5) for count in grams.values())
        if many[1] and many[2] and many[3]:
            y = many[1] / (many[1] + 2 * many[2])
            formula = {k: k - (k + 1) * y * many[k + 1] / many[k] for k in (1, 2, 3)}
            taken = [0.0, *(min(max(formula[k], 0.01), k) for k in (1, 2, 3))]
        else:
            taken = [0.0, 0.5, 1.0, 1.0]
        after = {gram: count for gram, count in grams.items() if gram[:-1] == history}
        total = sum(after.values())
        if total:
            freed = sum(taken[min(count, 3)] for count in after.values())
            own = after.get(history + character, 0)
            below = (own - taken[min(own, 3)]) / total + freed / total * below
    return below


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_it_equals_a_slow_reference(order: int) -> None:
    generator = random.Random(order)
    train = "".join(generator.choices("abcd", weights=[8, 4, 2, 1], k=400))
    text = "".join(generator.choices("abcde", weights=[8, 4, 2, 1, 1], k=60))
    expected = [
        reference(train, text[:i], character, "abcde", order) for i, character in enumerate(text)
    ]
    assert probabilities([train], [text], "abcde", order) == pytest.approx(expected)


def test_the_probabilities_after_every_context_add_up_to_one() -> None:
    vocabulary = "abcdef"
    train = "".join(random.Random(1).choices("abcde", k=300))
    contexts = ["".join(letters) for letters in itertools.product(vocabulary, repeat=3)]
    texts = [context + character for context in contexts for character in vocabulary]
    for order in (1, 2, 3, 4):
        last = probabilities([train], texts, vocabulary, order)[3::4]
        sums = np.array(last).reshape(len(contexts), len(vocabulary)).sum(axis=1)
        assert sums == pytest.approx(np.ones(len(contexts)))


def test_an_n_gram_does_not_cross_from_one_document_to_the_next() -> None:
    apart = probabilities(["ab" * 20, "cd" * 20], ["bc"], "abcd", 2)[1]
    joined = probabilities(["ab" * 20 + "cd" * 20], ["bc"], "abcd", 2)[1]
    assert apart < joined
    # In the text too: c comes first in its document, so b before it is no context.
    assert (
        probabilities(["bcbc"], ["b", "c"], "bc", 2)[1]
        != probabilities(["bcbc"], ["bc"], "bc", 2)[1]
    )


def test_short_and_empty_documents_have_no_long_n_grams() -> None:
    for text in (["a"], ["a", "", "b"], []):
        found = probabilities(["ab", "", "a"], text, "ab", 4)
        assert len(found) == sum(map(len, text))
        assert all(0 < value < 1 for value in found)


def test_progress_is_told_after_each_order() -> None:
    seen: list[tuple[int, int]] = []
    ids = np.array([0, 1, 0, 1])
    NGramModel(ids, [4], 2, 3, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_text_too_long_for_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 100)  # 10,000 bytes
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
    for order, expected in TINY_SHAKESPEARE.items():
        assert losses[order] == pytest.approx(expected, abs=1e-3)
    assert losses[1] < math.log(65)
