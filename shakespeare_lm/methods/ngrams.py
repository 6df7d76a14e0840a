"""A text -> how often each of its n-grams occurs.

Enters: ids of documents. Leaves: the different n-grams of every order, numbered so that the n-gram
before a character is the context in which the next order finds it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


class NGrams(NamedTuple):
    """All different n-grams of one order.

    Args:
        codes: of each different n-gram, sorted: number of its context * vocab_size + last id.
        counts: how often each occurs.
        different: how many different characters come before each; of the highest order, none.
        num_contexts: how many different first n - 1 characters there can be.
    """

    codes: Ids
    counts: Ids
    different: Ids
    num_contexts: int


def count_ngrams(ids: Ids, lengths: Ids, vocab_size: int, max_order: int) -> Iterator[list[NGrams]]:
    """Count the n-grams of all orders from 1; yield those counted so far, after each.

    Args:
        ids: the text, `[characters]`; documents one after the other.
        lengths: of the documents; an n-gram does not cross from one to the next.
        vocab_size: the number of different characters, seen or not.
        max_order: the longest n-gram.
    """
    place = place_in_document(lengths)
    context, num_contexts = np.zeros(len(ids), dtype=np.int64), 1  # the empty one has number 0
    at = np.full(len(ids), -1)  # the number of the n-gram that ends at each position; -1 if none
    orders: list[NGrams] = []
    for order in range(max_order):
        where = np.flatnonzero(context >= 0)
        codes, first, number, counts = np.unique(
            context[where] * vocab_size + ids[where],
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        if orders:  # each n-gram is another character before the shorter one that it ends with
            shorter = orders[-1]
            different = np.bincount(at[where[first]], minlength=len(shorter.codes))
            orders[-1] = shorter._replace(different=different)
        at = np.full(len(ids), -1)
        at[where] = number
        orders.append(NGrams(codes, counts, np.zeros(0, dtype=np.int64), num_contexts))
        context, num_contexts = next_context(at, place > order), len(codes)
        yield orders


def next_context(gram: Ids, inside: NDArray[np.bool_]) -> Ids:
    """Return the n-gram that ends before each position: the context of the next order."""
    return np.where(inside, np.concatenate([[-1], gram[:-1]]), -1)


def place_in_document(lengths: Ids) -> Ids:
    """Return the number of each character within its document, from 0."""
    return np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)


def find_ngrams(codes: Ids, context: Ids, ids: Ids, vocab_size: int) -> Ids:
    """Return the number of the n-gram that ends at each position; -1 if it was never seen."""
    if not len(codes):
        return np.full(len(ids), -1)
    wanted = context * vocab_size + ids
    number = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    return np.where((context >= 0) & (codes[number] == wanted), number, -1)


def discounts(counts: Ids) -> Floats:
    """Return how much is taken from counts of 0, 1, 2, and 3 or more (Chen & Goodman, eq. 26).

    Where counts are too few for the formula, as in a very short text, half of the count, or 1.
    """
    n = np.bincount(counts.clip(max=5), minlength=6).astype(float)
    if n[1] == 0 or n[2] == 0 or n[3] == 0:
        return np.array([0.0, 0.5, 1.0, 1.0])
    y = n[1] / (n[1] + 2 * n[2])
    formula = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    return np.array([0.0, *(np.clip(d, 0.01, k) for k, d in zip((1, 2, 3), formula, strict=True))])
