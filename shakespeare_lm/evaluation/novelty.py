"""The fraction of a text copied from the training part, the longest copy, known and repeated words
(RAVEN, McCoy et al. 2023, "How much do language models copy from their training data?").

All suffixes of both texts are sorted by prefix doubling (Manber & Myers 1993), until none of one
text ties with one of the other; the longest match of a suffix is then that with its nearest
neighbour from the other text, above or below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from shakespeare_lm.evaluation.breakdown import WORD
from shakespeare_lm.hardware import check_memory

Ints = NDArray[np.int64]

_LONGEST_SUBSTRING = 100
_MAX_WORDS = 3
# Ends of documents, greater than every character and different in the two texts: no match passes.
_END_OF_KNOWN, _END_OF_TEXT = 0x110000, 0x110001
# Measured: the ranks of up to twenty lengths, and the sort that makes them.
_BYTES_PER_CHARACTER = 300


@dataclass(frozen=True)
class CopiedSpan:
    """A piece of text that stands in the training part."""

    text: str
    start: int  # its offset in the training part, in characters
    line: int  # its line there, from 1


@dataclass(frozen=True)
class Novelty:
    """How much of a text stands in the training part."""

    characters: int
    # For each length from 1 to 100, the fraction of substrings of that length that stand in the
    # training part; fewer lengths if all documents are shorter.
    copied: list[float]
    longest: CopiedSpan
    known_words: float  # the fraction of words that occur in the training part, ignoring case
    # distinct-1, -2 and -3 (Li et al. 2016): distinct word n-grams by their total number. It falls
    # with the length of a text: compare texts of one length.
    distinct: list[float]


def novelty(documents: Sequence[str], train: Sequence[str]) -> Novelty:
    """Return how much of the documents stands in the training part.

    Raises:
        UserError: if both texts together are too long for this machine's memory.
    """
    lengths = longest_matches(documents, train)
    words = [_words(document) for document in documents]
    known = set(_words("\n".join(train)))
    is_known = [word in known for spoken in words for word in spoken]
    return Novelty(
        len(lengths),
        _copied_fractions(lengths, documents),
        _longest("".join(documents), lengths, train),
        sum(is_known) / max(1, len(is_known)),
        [_distinct(words, count) for count in range(1, _MAX_WORDS + 1)],
    )


def _copied_fractions(lengths: Ints, documents: Sequence[str]) -> list[float]:
    left = np.concatenate([np.arange(len(text), 0, -1) for text in ["", *documents]])
    longest = min(_LONGEST_SUBSTRING, int(left.max(initial=0)))
    return [float((lengths[left >= size] >= size).mean()) for size in range(1, longest + 1)]


def _longest(text: str, lengths: Ints, train: Sequence[str]) -> CopiedSpan:
    """Return the longest copy, and where it first stands in the training part."""
    at = int(lengths.argmax()) if len(lengths) else 0
    copied = text[at : at + int(lengths.max(initial=0))]
    starts = accumulate(map(len, train), initial=0)
    found = (start + t.find(copied) for start, t in zip(starts, train, strict=False) if copied in t)
    start = next(found, 0)
    return CopiedSpan(copied, start, "".join(train).count("\n", 0, start) + 1)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _distinct(documents: Sequence[Sequence[str]], count: int) -> float:
    ngrams = [
        tuple(words[at : at + count]) for words in documents for at in range(len(words) - count + 1)
    ]
    return len(set(ngrams)) / max(1, len(ngrams))


def longest_matches(documents: Sequence[str], known: Sequence[str]) -> Ints:
    """Return, for every position of documents, joined, how many characters from there on stand
    somewhere in the known documents. No match crosses from one document into the next.
    """
    parts = _with_ends([*known, ""], _END_OF_KNOWN), _with_ends(documents, _END_OF_TEXT)
    symbols = np.concatenate(parts)
    is_known = np.arange(len(symbols)) < len(parts[0])
    check_memory(_BYTES_PER_CHARACTER * len(symbols), "looking for copies", "use a shorter text")
    ranks = _ranks(symbols, is_known)
    order = np.argsort(ranks[-1])
    suffixes, known_suffixes = order[~is_known[order]], order[is_known[order]]
    below = is_known[order].cumsum()[~is_known[order]]
    lengths = np.zeros(len(symbols), dtype=np.int64)
    # The last known suffix is an end, which matches nothing: it stands in where there is no other.
    for neighbours in (known_suffixes[below - 1], known_suffixes.take(below, mode="clip")):
        common = _common_prefix(ranks, suffixes, neighbours)
        lengths[suffixes] = np.maximum(lengths[suffixes], common)
    return lengths[~is_known & (symbols < _END_OF_KNOWN)]


def _with_ends(documents: Sequence[str], end: int) -> Ints:
    """Return all characters, with an end after each document."""
    text = "".join(documents).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(text, dtype=np.uint32).astype(np.int64)
    return np.insert(characters, np.cumsum([*map(len, documents)], dtype=np.int64), end)


def _ranks(symbols: Ints, is_known: NDArray[np.bool_]) -> list[Ints]:
    """Return the ranks of all suffixes by their first 1, 2, 4, 8 ... characters, until suffixes of
    different texts have different ranks. Ties within one text are never broken: no match depends on
    them, and texts full of repeats have many.
    """
    ranks = [_ranks_of_pairs(np.zeros_like(symbols), symbols)]
    while True:
        both = np.ones(len(symbols), dtype=bool)
        for part in (is_known, ~is_known):
            both &= np.bincount(ranks[-1][part], minlength=len(symbols)) > 0
        tied = np.flatnonzero(both[ranks[-1]])
        if not len(tied):
            return ranks
        # Inside both texts: what they have in common contains no end.
        following = ranks[-1][tied + (1 << (len(ranks) - 1))]
        ranks.append(ranks[-1].copy())
        ranks[-1][tied] = _ranks_of_pairs(ranks[-1][tied], following)


def _ranks_of_pairs(first: Ints, second: Ints) -> Ints:
    """Break the ties in the ranks `first` by `second`. A rank is the number of smaller suffixes, so
    the ranks of suffixes that are not among these stay valid.
    """
    base = int(second.max()) + 1
    pairs, number, counts = np.unique(
        first * base + second, return_inverse=True, return_counts=True
    )
    smaller, group = counts.cumsum() - counts, pairs // base
    return (group + smaller - smaller[np.searchsorted(group, group)])[number]


def _common_prefix(ranks: list[Ints], first: Ints, second: Ints) -> Ints:
    """Return how many characters pairs of suffixes have in common, found as binary digits."""
    common = np.zeros(len(first), dtype=np.int64)
    for level in reversed(range(len(ranks))):
        # Inside both texts: they have no ends in common.
        equal = ranks[level][first + common] == ranks[level][second + common]
        common += np.where(equal, 1 << level, 0)
    return common
