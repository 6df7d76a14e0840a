"""A training text -> how likely every character of another text is to models that only count.

Enters: two texts as ids. Leaves: log-probabilities under interpolated modified Kneser-Ney models of
several orders (Chen & Goodman 1998, section 3), the strongest models that need no training: an
honest baseline for anything that does.

An n-gram model of order n predicts a character from the n - 1 before it. The highest order uses how
often each n-gram occurs; the orders below it, how many different characters come before it; below
all, every character is equally likely.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from shakespeare_lm.errors import check_at_least
from shakespeare_lm.hardware import check_memory
from shakespeare_lm.methods.ngrams import (
    Ids,
    NGrams,
    count_ngrams,
    discounts,
    find_ngrams,
    next_context,
    place_in_document,
)

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Measured: different n-grams of eight orders with their counts, and the sort of one order.
_BYTES_PER_CHARACTER = 115


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
        self.orders: list[NGrams] = []
        counting = count_ngrams(ids, np.asarray(lengths, dtype=np.int64), vocab_size, max_order)
        for self.orders in counting:
            if progress is not None:
                progress(len(self.orders), max_order)

    def log_probabilities(self, ids: Ids, lengths: Sequence[int]) -> Iterator[Floats]:
        """Yield, for each order from 1, the natural logarithm of the probability of every character
        of another text, `[characters]`.
        """
        below = np.full(len(ids), 1.0 / self.vocab_size)
        place = place_in_document(np.asarray(lengths, dtype=np.int64))
        context = np.zeros(len(ids), dtype=np.int64)  # the empty one has number 0
        for order, grams in enumerate(self.orders):
            gram = find_ngrams(grams.codes, context, ids, self.vocab_size)
            yield np.log(_interpolate(grams.counts, grams, gram, context, below, self.vocab_size))
            if order + 1 < len(self.orders):
                below = _interpolate(grams.different, grams, gram, context, below, self.vocab_size)
            context = next_context(gram, place > order)


def _interpolate(
    counts: Ids, grams: NGrams, gram: Ids, context: Ids, below: Floats, vocab_size: int
) -> Floats:
    """Return the probability of each character after its context; where the context was never
    seen, that of the order below.

    p(c | context) = (count - discount) / total + (mass that was discounted / total) * below
    """
    taken = discounts(counts)[counts.clip(max=3)]
    contexts = grams.codes // vocab_size
    # The last element is for number -1: what was never seen has no counts.
    total = np.append(np.bincount(contexts, counts, grams.num_contexts), 0.0)[context]
    freed = np.append(np.bincount(contexts, taken, grams.num_contexts), 0.0)[context]
    kept = np.append(counts - taken, 0.0)[gram]
    seen = total > 0
    share = np.divide(freed, total, out=np.ones_like(total), where=seen)
    return np.divide(kept, total, out=np.zeros_like(total), where=seen) + share * below
