"""A training text -> how likely every character of another text is to models that only count.

Enters: two texts as ids. Leaves: log-probabilities under interpolated modified Kneser-Ney models of
several orders (Chen & Goodman 1998, section 3), the strongest models that need no training: an
honest baseline for anything that does.

An n-gram model of order n predicts a character from the n - 1 before it. The highest order uses how
often each n-gram occurs; the orders below it, how many different characters come before it; below
all, every character is equally likely.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shakespeare_lm.errors import check_at_least
from shakespeare_lm.hardware import check_memory

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Measured: different n-grams of eight orders with their counts, and the sort of one order.
_BYTES_PER_CHARACTER = 115


class _Grams(NamedTuple):
    """All n-grams of one order.

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


class NGramModel:
    """Counts of all n-grams of a text, up to an order.

    Args:
        ids: the text, `[characters]`; documents one after the other.
        lengths: of the documents; an n-gram does not cross from one to the next.
        vocab_size: the number of different characters, seen or not.
        max_order: the longest n-gram.
        progress: is called with the numbers of orders counted, and of all.

    Raises:
        UserError: if the text is too long for this machine's memory, or the order is less than 1.
    """

    def __init__(
        self,
        ids: Ids,
        lengths: Sequence[int],
        vocab_size: int,
        max_order: int,
        progress: Progress | None = None,
    ) -> None:
        check_at_least(1, max_order=max_order)
        check_memory(_BYTES_PER_CHARACTER * len(ids), "counting n-grams", "use a shorter text")
        self.vocab_size = vocab_size
        self.orders: list[_Grams] = []
        counting = _count(ids, np.asarray(lengths, dtype=np.int64), vocab_size, max_order)
        for self.orders in counting:
            if progress is not None:
                progress(len(self.orders), max_order)

    def log_probabilities(self, ids: Ids, lengths: Sequence[int]) -> Iterator[Floats]:
        """Yield, for each order from 1, the natural logarithm of the probability of every character
        of another text, `[characters]`.
        """
        below = np.full(len(ids), 1.0 / self.vocab_size)
        place = _place_in_document(np.asarray(lengths, dtype=np.int64))
        context = np.zeros(len(ids), dtype=np.int64)  # the empty one has number 0
        for order, grams in enumerate(self.orders):
            gram = _find(grams.codes, context, ids, self.vocab_size)
            yield np.log(_interpolate(grams.counts, grams, gram, context, below, self.vocab_size))
            if order + 1 < len(self.orders):
                below = _interpolate(grams.different, grams, gram, context, below, self.vocab_size)
            context = _shift(gram, place > order)


def _count(ids: Ids, lengths: Ids, vocab_size: int, max_order: int) -> Iterator[list[_Grams]]:
    """Yield the orders counted so far, after each."""
    place = _place_in_document(lengths)
    context, num_contexts = np.zeros(len(ids), dtype=np.int64), 1  # the empty one has number 0
    at = np.full(len(ids), -1)  # the number of the n-gram that ends at each position; -1 if none
    orders: list[_Grams] = []
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
        orders.append(_Grams(codes, counts, np.zeros(0, dtype=np.int64), num_contexts))
        context, num_contexts = _shift(at, place > order), len(codes)
        yield orders


def _shift(gram: Ids, inside: NDArray[np.bool_]) -> Ids:
    """Return the n-gram that ends before each position: the context of the next order."""
    return np.where(inside, np.concatenate([[-1], gram[:-1]]), -1)


def _place_in_document(lengths: Ids) -> Ids:
    """Return the number of each character within its document, from 0."""
    return np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)


def _find(codes: Ids, context: Ids, ids: Ids, vocab_size: int) -> Ids:
    """Return the number of the n-gram that ends at each position; -1 if it was never seen."""
    if not len(codes):
        return np.full(len(ids), -1)
    wanted = context * vocab_size + ids
    number = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    return np.where((context >= 0) & (codes[number] == wanted), number, -1)


def _interpolate(
    counts: Ids, grams: _Grams, gram: Ids, context: Ids, below: Floats, vocab_size: int
) -> Floats:
    """Return the probability of each character after its context; where the context was never
    seen, that of the order below.

    p(c | context) = (count - discount) / total + (mass that was discounted / total) * below
    """
    discounts = _discounts(counts)[counts.clip(max=3)]
    contexts = grams.codes // vocab_size
    # The last element is for number -1: what was never seen has no counts.
    total = np.append(np.bincount(contexts, counts, grams.num_contexts), 0.0)[context]
    freed = np.append(np.bincount(contexts, discounts, grams.num_contexts), 0.0)[context]
    kept = np.append(counts - discounts, 0.0)[gram]
    seen = total > 0
    share = np.divide(freed, total, out=np.ones_like(total), where=seen)
    return np.divide(kept, total, out=np.zeros_like(total), where=seen) + share * below


def _discounts(counts: Ids) -> Floats:
    """Return how much is taken from counts of 0, 1, 2, and 3 or more (Chen & Goodman, eq. 26).

    Where counts are too few for the formula, as in a very short text, half of the count, or 1.
    """
    n = np.bincount(counts.clip(max=5), minlength=6).astype(float)
    if n[1] == 0 or n[2] == 0 or n[3] == 0:
        return np.array([0.0, 0.5, 1.0, 1.0])
    y = n[1] / (n[1] + 2 * n[2])
    formula = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    return np.array([0.0, *(np.clip(d, 0.01, k) for k, d in zip((1, 2, 3), formula, strict=True))])
