"""Kneser-Ney as the paper has it, one probability at a time: what counts and tables must equal."""

from collections import Counter, defaultdict
from collections.abc import Sequence

Counts = list[Counter[tuple[int, ...]]]


def count(
    documents: Sequence[Sequence[int]], order: int, without: tuple[int, int] | None = None
) -> Counts:
    """Return how often each n-gram of each order occurs, but for those `without` which end at this
    position of this document.
    """
    return [
        Counter(
            tuple(text[end - size : end])
            for number, text in enumerate(documents)
            for end in range(size, len(text) + 1)
            if (number, end - 1) != without
        )
        for size in range(1, order + 1)
    ]


def lower_order(counts: Counts, size: int) -> Counter[tuple[int, ...]]:
    """Return how many characters come before each n-gram, or how often the longest occur."""
    if size == len(counts):
        return counts[-1]
    before = defaultdict(set)
    for gram in counts[size]:
        before[gram[1:]].add(gram[0])
    return Counter({gram: len(found) for gram, found in before.items()})


def kneser_ney(
    vocab_size: int, history: Sequence[int], counts: Counts, all_counts: Counts | None = None
) -> list[float]:
    """Return the probability of each character after a history, by interpolated modified Kneser-Ney
    (Chen & Goodman 1998); the discounts are those of `all_counts`.
    """
    below = [1 / vocab_size] * vocab_size
    for size in range(1, len(counts) + 1):
        context = tuple(history[len(history) - size + 1 :]) if size > 1 else ()
        if len(context) < size - 1:
            break
        many = Counter(min(c, 5) for c in lower_order(all_counts or counts, size).values())
        discounts = [0.0, 0.5, 1.0, 1.0]
        if many[1] and many[2] and many[3]:
            y = many[1] / (many[1] + 2 * many[2])
            formula = {k: k - (k + 1) * y * many[k + 1] / many[k] for k in (1, 2, 3)}
            discounts = [0.0, *(min(max(formula[k], 0.01), k) for k in (1, 2, 3))]
        found = lower_order(counts, size)
        row = [found[(*context, symbol)] for symbol in range(vocab_size)]
        taken = [discounts[min(c, 3)] for c in row]
        if sum(row):
            rows = zip(row, taken, below, strict=True)
            below = [(c - less + sum(taken) * lower) / sum(row) for c, less, lower in rows]
    return below
