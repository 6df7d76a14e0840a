"""A text and a training part -> how much of the one stands in the other.

Enters: documents. Leaves: shares of copied substrings, the longest copy, known and repeated words
(RAVEN, McCoy et al. 2023, "How much do language models copy from their training data?").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shakespeare_lm.evaluation.breakdown import WORD
from shakespeare_lm.evaluation.matching import Matches, longest_matches

LONGEST_SUBSTRING = 100
_MAX_WORDS = 3


@dataclass(frozen=True)
class CopiedSpan:
    """A piece of text that stands in the training part.

    Args:
        text: as it is.
        start: where it begins in the training part, in characters from 0.
        line: the line there, from 1.
    """

    text: str
    start: int
    line: int


@dataclass(frozen=True)
class Novelty:
    """How much of a text stands in the training part.

    Args:
        characters: of the text.
        copied: for each length from 1 on, the share of its substrings of that length that stand in
            the training part; shorter than 100 if the texts are.
        longest: the longest of them.
        known_words: the share of its words that occur in the training part, in any case of letters.
        distinct: for one, two and three words in a row, the share that are different (Li et al.
            2016). It falls with the length of a text: compare texts of one length.
    """

    characters: int
    copied: list[float]
    longest: CopiedSpan
    known_words: float
    distinct: list[float]


def novelty(documents: Sequence[str], train: Sequence[str]) -> Novelty:
    """Return how much of some documents stands in the training part."""
    matches = longest_matches(documents, train)
    text = "".join(documents)
    words = [_words(document) for document in documents]
    known = set(_words("\n".join(train)))
    spoken = [word for some in words for word in some]
    return Novelty(
        len(text),
        copied_shares(matches, [len(document) for document in documents]),
        _longest(text, matches, "".join(train)),
        sum(word in known for word in spoken) / max(1, len(spoken)),
        [_distinct(words, count) for count in range(1, _MAX_WORDS + 1)],
    )


def copied_shares(matches: Matches, lengths: Sequence[int]) -> list[float]:
    """Return, for each length from 1 to 100, the share of the substrings of that length that stand
    in the training part.

    Args:
        matches: of the text.
        lengths: of its documents; a substring is within one.
    """
    left = np.concatenate([np.arange(length, 0, -1) for length in [0, *lengths]])
    longest = min(LONGEST_SUBSTRING, int(left.max(initial=0)))
    return [
        float((matches.lengths[left >= length] >= length).mean())
        for length in range(1, longest + 1)
    ]


def _longest(text: str, matches: Matches, train: str) -> CopiedSpan:
    if not len(matches.lengths):
        return CopiedSpan("", 0, 1)
    at = int(matches.lengths.argmax())
    start = int(matches.places[at])
    copied = text[at : at + int(matches.lengths[at])]
    return CopiedSpan(copied, start, train.count("\n", 0, start) + 1)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _distinct(documents: Sequence[Sequence[str]], count: int) -> float:
    """Return the share of different ones among `count` words in a row."""
    rows = [
        tuple(words[at : at + count]) for words in documents for at in range(len(words) - count + 1)
    ]
    return len(set(rows)) / max(1, len(rows))
