"""The fraction of a text copied from the training part, the longest copy, known and repeated words
(RAVEN, McCoy et al. 2023, "How much do language models copy from their training data?").

All suffixes of both texts are sorted by prefix doubling (Manber & Myers 1993); the longest match of
a suffix is then that with its nearest neighbour from the other text, above or below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Matches(NamedTuple):
    """The longest match at every position of a text; both arrays are `[characters]`."""

    lengths: Ints  # how many characters from there on stand somewhere in the known text
    starts: Ints  # the offset of the match in the known documents, joined


def novelty(documents: Sequence[str], train: Sequence[str]) -> Novelty:
    """Return how much of the documents stands in the training part."""
    matches = longest_matches(documents, train)
    words = [_words(document) for document in documents]
    known = set(_words("\n".join(train)))
    is_known = [word in known for spoken in words for word in spoken]
    return Novelty(
        sum(map(len, documents)),
        _copied_fractions(matches, documents),
        _longest("".join(documents), matches, "".join(train)),
        sum(is_known) / max(1, len(is_known)),
        [_distinct(words, count) for count in range(1, _MAX_WORDS + 1)],
    )


def _copied_fractions(matches: Matches, documents: Sequence[str]) -> list[float]:
    left = np.concatenate([np.arange(len(text), 0, -1) for text in ["", *documents]])
    longest = min(_LONGEST_SUBSTRING, int(left.max(initial=0)))
    return [
        float((matches.lengths[left >= length] >= length).mean())
        for length in range(1, longest + 1)
    ]


def _longest(text: str, matches: Matches, train: str) -> CopiedSpan:
    if not len(matches.lengths):
        return CopiedSpan("", 0, 1)
    at = int(matches.lengths.argmax())
    start = int(matches.starts[at])
    copied = text[at : at + int(matches.lengths[at])]
    return CopiedSpan(copied, start, train.count("\n", 0, start) + 1)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _distinct(documents: Sequence[Sequence[str]], count: int) -> float:
    ngrams = [
        tuple(words[at : at + count]) for words in documents for at in range(len(words) - count + 1)
    ]
    return len(set(ngrams)) / max(1, len(ngrams))


def longest_matches(documents: Sequence[str], known: Sequence[str]) -> Matches:
    """Return the longest match with the known documents at every position of other documents,
    joined. No match crosses from one document into the next.

    Raises:
        UserError: if both texts together are too long for this machine's memory.
    """
    known_symbols, position = _with_ends(known, _END_OF_KNOWN)
    symbols = np.concatenate([known_symbols, _with_ends(documents, _END_OF_TEXT)[0]])
    is_known = np.arange(len(symbols)) < len(known_symbols)
    check_memory(_BYTES_PER_CHARACTER * len(symbols), "looking for copies", "use a shorter text")
    ranks = _ranks(symbols)
    order = np.argsort(ranks[-1])
    lengths, starts = np.zeros((2, len(symbols)), dtype=np.int64)
    for neighbour in _nearest_known(order, is_known):
        found = np.flatnonzero(~is_known & (neighbour >= 0))
        common = _common_prefix(ranks, found, neighbour[found])
        longer = common > lengths[found]
        lengths[found[longer]] = common[longer]
        starts[found[longer]] = position[neighbour[found[longer]]]
    asked = ~is_known & (symbols < _END_OF_KNOWN)
    return Matches(lengths[asked], starts[asked])


def _with_ends(documents: Sequence[str], end: int) -> tuple[Ints, Ints]:
    """Return all characters with an end after each document, and their positions without ends."""
    text = "".join(documents).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(text, dtype=np.uint32).astype(np.int64)
    ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
    return np.insert(characters, ends, end), np.insert(np.arange(len(characters)), ends, ends)


def _ranks(symbols: Ints) -> list[Ints]:
    """Return the ranks of all suffixes by their first 1, 2, 4, 8 ... characters, until all differ.

    A suffix that is shorter comes before those that it begins.
    """
    ranks = [np.unique(symbols, return_inverse=True)[1]]
    while len(ranks[-1]) and int(ranks[-1].max()) < len(symbols) - 1:
        length = 1 << (len(ranks) - 1)
        following = np.zeros(len(symbols), dtype=np.int64)
        following[:-length] = ranks[-1][length:] + 1
        pairs = ranks[-1] * (len(symbols) + 1) + following
        ranks.append(np.unique(pairs, return_inverse=True)[1])
    return ranks


def _nearest_known(order: Ints, is_known: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return, for every suffix, the known suffix next above and next below; -1 if there is none."""
    number = np.where(is_known[order], np.arange(len(order)), -1)
    above = np.maximum.accumulate(number)
    below = np.where(number < 0, len(order), number)
    below = np.minimum.accumulate(below[::-1])[::-1]
    suffixes = np.append(order, -1)  # the last element is for -1, and for one too many
    neighbours = np.empty((2, len(order)), dtype=np.int64)
    neighbours[0, order], neighbours[1, order] = suffixes[above], suffixes[below]
    return neighbours[0], neighbours[1]


def _common_prefix(ranks: list[Ints], first: Ints, second: Ints) -> Ints:
    """Return how many characters pairs of suffixes have in common, found as binary digits."""
    common = np.zeros(len(first), dtype=np.int64)
    for level in reversed(range(len(ranks))):
        # Inside both texts: they do not have their ends in common.
        equal = ranks[level][first + common] == ranks[level][second + common]
        common += np.where(equal, 1 << level, 0)
    return common
