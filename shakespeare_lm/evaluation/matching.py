"""Two texts -> for every position of one, the longest piece that also stands in the other.

Enters: documents. Leaves: lengths and places of the longest matches. All suffixes of both texts are
sorted by prefix doubling (Manber & Myers 1993); the best match of a suffix is then its nearest
neighbour from the other text, above or below.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shakespeare_lm.hardware import check_memory

Ints = NDArray[np.int64]

# Ends of documents, greater than every character and different in the two texts: no match passes.
_END_OF_KNOWN, _END_OF_TEXT = 0x110000, 0x110001
# Measured: the ranks of up to twenty lengths, and the sort that makes them.
_BYTES_PER_CHARACTER = 300


class Matches(NamedTuple):
    """The longest match at every position of a text; both arrays are `[characters]`.

    Args:
        lengths: how many characters from there on stand somewhere in the known text.
        places: where in the known text they begin, in characters of its documents joined.
    """

    lengths: Ints
    places: Ints


def longest_matches(documents: Sequence[str], known: Sequence[str]) -> Matches:
    """Return the longest match with the known documents at every position of other documents.

    Args:
        documents: the text, of which every position is looked up; joined, in their order.
        known: where it is looked up. No match goes from one document into the next.

    Raises:
        UserError: if both together are too long for this machine's memory.
    """
    symbols, is_known, position = _joined(known, documents)
    check_memory(_BYTES_PER_CHARACTER * len(symbols), "looking for copies", "use a shorter text")
    ranks = _ranks(symbols)
    order = np.argsort(ranks[-1])
    lengths, places = np.zeros(len(symbols), dtype=np.int64), np.zeros(len(symbols), dtype=np.int64)
    for neighbour in _nearest_known(order, is_known):
        found = np.flatnonzero(~is_known & (neighbour >= 0))
        common = _common_prefix(ranks, found, neighbour[found])
        longer = common > lengths[found]
        lengths[found[longer]] = common[longer]
        places[found[longer]] = position[neighbour[found[longer]]]
    asked = ~is_known & (symbols < _END_OF_KNOWN)
    return Matches(lengths[asked], places[asked])


def _joined(known: Sequence[str], documents: Sequence[str]) -> tuple[Ints, NDArray[np.bool_], Ints]:
    """Return all characters with an end after each document, which text each belongs to, and its
    position in that text without the ends.
    """
    pieces, positions = [], []
    for texts, end in ((known, _END_OF_KNOWN), (documents, _END_OF_TEXT)):
        before = 0
        for text in texts:
            characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            pieces.append(np.append(characters.astype(np.int64), end))
            positions.append(np.arange(before, before + len(text) + 1))
            before += len(text)
    num_known = sum(len(text) + 1 for text in known)
    symbols = np.concatenate([*pieces, np.zeros(0, dtype=np.int64)])
    position = np.concatenate([*positions, np.zeros(0, dtype=np.int64)])
    return symbols, np.arange(len(symbols)) < num_known, position


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
    """Return how many characters pairs of suffixes have in common: the binary digits of that
    number, from the highest.
    """
    common = np.zeros(len(first), dtype=np.int64)
    last = len(ranks[0]) - 1
    for level in reversed(range(len(ranks))):
        a, b = first + common, second + common
        # No two suffixes are equal, so one that has ended has nothing more in common.
        inside = (a <= last) & (b <= last)
        equal = ranks[level][a.clip(max=last)] == ranks[level][b.clip(max=last)]
        common += np.where(inside & equal, 1 << level, 0)
    return common
