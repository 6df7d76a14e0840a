"""Interpolated modified Kneser-Ney over characters (Chen & Goodman 1998, section 3): the strongest
model that only counts.

A model of order n predicts a character from the n - 1 before it. The highest order uses how often
each n-gram occurs; the orders below it, how many different characters come before it; below all,
every character is equally likely.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from shakespeare_lm.errors import check_at_least
from shakespeare_lm.hardware import check_memory

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]  # of the numbers of orders counted so far, and of all

# Measured: different n-grams of eight orders with their counts, and the sort of one order.
_BYTES_PER_CHARACTER = 115
# After the last code, so that a search always ends at one.
_NO_CODE = np.iinfo(np.int64).max


class NGrams(NamedTuple):
    """The distinct n-grams of one order. The code of one is the number of its context (of its first
    n - 1 characters) * vocab_size + its last id.
    """

    codes: Ids  # sorted
    counts: Ids  # how often each occurs
    different: Ids  # how many different characters come before each; empty for the highest order
    num_contexts: int


class Order(NamedTuple):
    """One order of a model: tables by number of the n-gram or context, whose last element is for
    those that were never seen.
    """

    codes: Tensor  # of the n-grams, as in `NGrams`, and one that no n-gram has
    # The count of each n-gram, less its discount; or, dense, `[contexts, vocab]`.
    discounted: Tensor
    backoff: Tensor  # the backoff mass of each context: the sum of its discounts
    totals: Tensor  # the sum of each context's counts
    singletons: Tensor  # 1 for an n-gram that occurs once, else 0
    all_different: Tensor  # 1 if all occurrences of an n-gram have different characters before them
    backoff_by_one: Tensor  # what the backoff mass gains if the count of an n-gram is one less


def count_ngrams(
    ids: Ids, lengths: ArrayLike, vocab_size: int, max_order: int, progress: Progress | None = None
) -> list[NGrams]:
    """Count the n-grams of each order from 1 to `max_order`.

    Args:
        ids: the text, `[characters]`; documents one after the other.
        lengths: of the documents; an n-gram does not cross from one to the next.
        vocab_size: the number of different characters, seen or not.
        max_order: the longest n-gram.
        progress: called after each order.

    Raises:
        UserError: if the text is too long for this machine's memory, or the order is less than 1.
    """
    check_at_least(1, max_order=max_order)
    check_memory(_BYTES_PER_CHARACTER * len(ids), "counting n-grams", "use a shorter text")
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
        if progress is not None:
            progress(len(orders), max_order)
    return orders


def first_of_document(lengths: ArrayLike) -> NDArray[np.bool_]:
    """Return True for the first character of each document, `[characters]`."""
    lengths = np.asarray(lengths, np.int64)
    first = np.zeros(int(lengths.sum()), dtype=bool)
    first[(lengths.cumsum() - lengths)[lengths > 0]] = True
    return first


def discounts(counts: Ids) -> Floats:
    """Return the discounts of counts of 0, 1, 2, and 3 or more (Chen & Goodman, eq. 26); where a
    text is too short for the formula, half of the count, at most 1.
    """
    n = np.bincount(counts.clip(max=5), minlength=6).astype(float)
    if n[1] == 0 or n[2] == 0 or n[3] == 0:
        return np.array([0.0, 0.5, 1.0, 1.0])
    y = n[1] / (n[1] + 2 * n[2])
    k = np.array([1, 2, 3])
    formula = k - (k + 1) * y * n[k + 1] / n[k]
    return np.append(0.0, formula.clip(0.01, k))


def tables_of(grams: NGrams, counts: Ids, vocab_size: int, dtype: Any = np.float64) -> Order:
    """Return the tables of an order in which the n-grams have these counts: `grams.counts`, or
    `grams.different` below the highest order.
    """
    by_count = discounts(counts).astype(dtype)
    discount = by_count[counts.clip(max=3)]
    discounted = counts - discount
    contexts, rows = grams.codes // vocab_size, grams.num_contexts + 1
    totals = np.bincount(contexts, counts, rows).astype(dtype)
    backoff = totals - np.bincount(contexts, discounted, rows).astype(dtype)
    backoff_by_one = by_count[(counts - 1).clip(0, 3)] - discount
    of_ngrams = (discounted, grams.counts == 1, grams.counts == counts, backoff_by_one)
    first, *rest = (np.append(values, 0).astype(dtype) for values in of_ngrams)
    arrays = (np.append(grams.codes, _NO_CODE), first, backoff, totals, *rest)
    return Order(*map(torch.from_numpy, arrays))


def find_ngrams(
    orders: Sequence[Order], ids: Tensor, vocab_size: int, first: Tensor | None = None
) -> list[Tensor]:
    """Return, for each order, the number of the n-gram that ends at each id, `[batch, time]`, or -1
    if it was never seen. No n-gram crosses into a document, whose start is True in `first`.
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


def discounted_after(order: Order, context: Tensor, vocab_size: int) -> Tensor:
    """Return the discounted counts of all characters after each context, `[batch, time, vocab]`."""
    if order.discounted.ndim == 2:
        return order.discounted[context]
    # The n-grams of one context are neighbours; -1, an unseen context, has none.
    start, end = (torch.searchsorted(order.codes, (context + i) * vocab_size) for i in (0, 1))
    lengths = (end - start).flatten()
    row = torch.arange(len(lengths), device=context.device).repeat_interleave(lengths)
    shift = start.flatten() - (lengths.cumsum(0) - lengths)
    ngram = torch.arange(len(row), device=context.device) + shift[row]
    found = order.discounted.new_zeros(len(lengths), vocab_size)
    found[row, order.codes[ngram] % vocab_size] = order.discounted[ngram]
    return found.view(*context.shape, vocab_size)


def interpolate(discounted: Tensor, backoff: Tensor, total: Tensor, below: Tensor) -> Tensor:
    """Return the probabilities of an order; where its context never occurs, those of the one below.

    p(c | context) = (count - discount) / total + (backoff mass / total) * below
    """
    backoff = torch.where(total > 0, backoff, 1.0)
    return torch.addcmul(discounted, backoff, below).div_(total.clamp(min=1))


class NGramModel:
    """The n-gram models of a text, of every order up to `max_order`, to be evaluated on another.

    Arguments and errors are those of `count_ngrams`.
    """

    def __init__(
        self,
        ids: Ids,
        lengths: ArrayLike,
        vocab_size: int,
        max_order: int,
        progress: Progress | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.grams = count_ngrams(ids, lengths, vocab_size, max_order, progress)

    def log_probabilities(self, ids: Ids, lengths: ArrayLike) -> Iterator[Floats]:
        """Yield, for each order, the log-probabilities of another text, `[characters]`, in nats."""
        text = torch.from_numpy(ids)[None]
        first = torch.from_numpy(first_of_document(lengths))[None]
        highest = [tables_of(grams, grams.counts, self.vocab_size) for grams in self.grams]
        ngrams = find_ngrams(highest, text, self.vocab_size, first)
        contexts = [torch.zeros_like(text), *(previous(one, first) for one in ngrams[:-1])]
        below = torch.full(text.shape, 1 / self.vocab_size, dtype=torch.float64)
        for grams, order, ngram, context in zip(self.grams, highest, ngrams, contexts, strict=True):
            yield _probabilities(order, ngram, context, below)[0].log().numpy()
            if len(grams.different):
                lower = tables_of(grams, grams.different, self.vocab_size)
                below = _probabilities(lower, ngram, context, below)


def _probabilities(order: Order, ngram: Tensor, context: Tensor, below: Tensor) -> Tensor:
    backoff, total = order.backoff[context], order.totals[context]
    return interpolate(order.discounted[ngram], backoff, total, below)
