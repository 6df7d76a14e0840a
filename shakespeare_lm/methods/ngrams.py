"""A text -> how likely each next character is to a model that only counts: interpolated modified
Kneser-Ney over characters (Chen & Goodman 1998, section 3), the strongest model without training.

A model of order n predicts a character from the n - 1 before it. The highest order uses how often
each n-gram occurs; the orders below it, how many different characters come before it; below all,
every character is equally likely.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shakespeare_lm.errors import check_at_least
from shakespeare_lm.hardware import check_memory

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Measured: different n-grams of eight orders with their counts, and the sort of one order.
_BYTES_PER_CHARACTER = 115
# After the last code, so that a search always ends at one.
_NO_CODE = np.iinfo(np.int64).max


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


class Order(NamedTuple):
    """One order of a model, to be looked up by the numbers of n-grams and contexts; the last
    element of each table is for those that were never seen.

    Args:
        codes: of the n-grams, sorted (see `NGrams`), and one that no n-gram has.
        discounted: the count of each n-gram, less its discount.
        backoff: the discounts of each context, added up: the mass that the order below gets.
        totals: the counts of each context.
        singletons: 1 for an n-gram that occurs once, else 0.
        all_different: 1 if all occurrences of an n-gram have different characters before them.
        backoff_by_one: how much larger the backoff mass is if the count of an n-gram is one less.
    """

    codes: Tensor
    discounted: Tensor
    backoff: Tensor
    totals: Tensor
    singletons: Tensor
    all_different: Tensor
    backoff_by_one: Tensor


def count_ngrams(ids: Ids, lengths: Ids, vocab_size: int, max_order: int) -> Iterator[list[NGrams]]:
    """Count the n-grams of all orders from 1; yield those counted so far, after each.

    Args:
        ids: the text, `[characters]`; documents one after the other.
        lengths: of the documents; an n-gram does not cross from one to the next.
        vocab_size: the number of different characters, seen or not.
        max_order: the longest n-gram.
    """
    first = first_of_document(lengths)
    context, num_contexts = np.zeros(len(ids), dtype=np.int64), 1  # the empty one has number 0
    ending = np.full(len(ids), -1)  # the number of the n-gram that ends at each position, or -1
    orders: list[NGrams] = []
    for _ in range(max_order):
        where = np.flatnonzero(context >= 0)
        codes, example, number, counts = np.unique(
            context[where] * vocab_size + ids[where],
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        if orders:  # each n-gram is another character before the shorter one that it ends with
            shorter = orders[-1]
            different = np.bincount(ending[where[example]], minlength=len(shorter.codes))
            orders[-1] = shorter._replace(different=different)
        ending = np.full(len(ids), -1)
        ending[where] = number
        orders.append(NGrams(codes, counts, np.zeros(0, dtype=np.int64), num_contexts))
        context = np.where(first, -1, np.concatenate([[-1], ending[:-1]]))
        num_contexts = len(codes)
        yield orders


def first_of_document(lengths: Ids) -> NDArray[np.bool_]:
    """Return True for the first character of each document, `[characters]`."""
    first = np.zeros(int(lengths.sum()), dtype=bool)
    first[(lengths.cumsum() - lengths)[lengths > 0]] = True
    return first


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


def tables_of(grams: NGrams, counts: Ids, vocab_size: int, dtype: Any = np.float64) -> Order:
    """Return the tables of an order whose n-grams count so much."""
    taken = discounts(counts).astype(dtype)
    left = counts - taken[counts.clip(max=3)]
    contexts, rows = grams.codes // vocab_size, grams.num_contexts + 1
    totals = np.bincount(contexts, counts, rows).astype(dtype)
    backoff = totals - np.bincount(contexts, left, rows).astype(dtype)
    by_one = taken[(counts - 1).clip(0, 3)] - taken[counts.clip(max=3)]
    of_ngrams = (left, grams.counts == 1, grams.counts == counts, by_one)
    discounted, *rest = (np.append(values, 0).astype(dtype) for values in of_ngrams)
    arrays = (np.append(grams.codes, _NO_CODE), discounted, backoff, totals, *rest)
    return Order(*map(torch.from_numpy, arrays))


def find_ngrams(
    orders: Sequence[Order], ids: Tensor, vocab_size: int, first: Tensor | None = None
) -> list[Tensor]:
    """Return the number of the n-gram of each order that ends at each position; -1 if it was never
    seen.

    Args:
        orders: from 1.
        ids: `[batch, time]`.
        vocab_size: the number of different characters.
        first: True where a document begins, within which n-grams stay.
    """
    found, context = [], torch.zeros_like(ids)
    for order in orders:
        code = context * vocab_size + ids  # negative after an unseen context
        number = torch.searchsorted(order.codes, code)
        found.append(torch.where(order.codes[number] == code, number, -1))
        context = previous(found[-1], first)
    return found


def previous(ngrams: Tensor, first: Tensor | None = None) -> Tensor:
    """Return the n-gram that ends before each position, `[batch, time]`; -1 if there is none."""
    shifted = nn.functional.pad(ngrams, (1, 0), value=-1)[:, :-1]
    return shifted if first is None else shifted.masked_fill(first, -1)


def interpolate(discounted: Tensor, backoff: Tensor, total: Tensor, below: Tensor) -> Tensor:
    """Return the probabilities of an order; where its context never occurs, those of the one below.

    p(c | context) = (count - discount) / total + (backoff mass / total) * below
    """
    backoff = torch.where(total > 0, backoff, 1.0)
    return torch.addcmul(discounted, backoff, below).div_(total.clamp(min=1))


class NGramModel:
    """Counts of all n-grams of a text, up to an order, to be evaluated on another.

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
        self.grams: list[NGrams] = []
        for self.grams in count_ngrams(ids, np.asarray(lengths, np.int64), vocab_size, max_order):
            if progress is not None:
                progress(len(self.grams), max_order)

    def log_probabilities(self, ids: Ids, lengths: Sequence[int]) -> Iterator[Floats]:
        """Yield, for each order from 1, the natural logarithm of the probability of every character
        of another text, `[characters]`.
        """
        text = torch.from_numpy(ids)[None]
        first = torch.from_numpy(first_of_document(np.asarray(lengths, np.int64)))[None]
        highest = [tables_of(grams, grams.counts, self.vocab_size) for grams in self.grams]
        ngrams = find_ngrams(highest, text, self.vocab_size, first)
        contexts = [torch.zeros_like(text), *(previous(one, first) for one in ngrams[:-1])]
        below = torch.full(text.shape, 1 / self.vocab_size, dtype=torch.float64)
        for grams, order, ngram, context in zip(self.grams, highest, ngrams, contexts, strict=True):
            found = (ngram, context, below)
            yield _probabilities(order, *found)[0].log().numpy()
            if len(grams.different):
                lower = tables_of(grams, grams.different, self.vocab_size)
                below = _probabilities(lower, *found)


def _probabilities(order: Order, ngram: Tensor, context: Tensor, below: Tensor) -> Tensor:
    backoff, total = order.backoff[context], order.totals[context]
    return interpolate(order.discounted[ngram], backoff, total, below)
