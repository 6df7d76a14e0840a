"""The loss of every character -> where the loss is: means over groups of characters, and the most
surprising passages. Every predicted character is in exactly one group of each kind.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shakespeare_lm.evaluation.losses import Nats

# A line like "ROMEO:" that begins a speech.
_SPEAKER = re.compile(r"^[A-Z][^\n:]{0,40}:$", re.MULTILINE)
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_LAST_PLACE = 6
POSITION = "position in the context"
_PASSAGE_CHARACTERS = 60


@dataclass(frozen=True)
class Group:
    """Characters of one kind."""

    name: str
    characters: int  # how many were predicted
    nats: float  # their mean loss
    share: float  # their fraction of the total loss


@dataclass(frozen=True)
class Passage:
    """A piece of the text."""

    start: int  # the position of its first character
    text: str
    nats: float  # its mean loss per character


@dataclass(frozen=True)
class Breakdown:
    """Where the loss is."""

    groups: dict[str, list[Group]]  # by position, kind of character, place in the word, document
    passages: list[Passage]  # the most surprising ones


def break_down(documents: Sequence[str], losses: Nats, context_length: int) -> Breakdown:
    """Break down the losses of the documents' characters, computed in disjoint blocks of this
    context length.
    """
    text, lengths = "".join(documents), [len(document) for document in documents]
    groups = {
        POSITION: by_position(losses, lengths, context_length),
        "character": by_class(text, losses),
        "place in the word": by_place_in_word(text, losses),
    }
    if len(documents) > 1:
        groups["document"] = by_document(losses, lengths)
    return Breakdown(groups, surprising_passages(text, losses))


def by_position(losses: Nats, lengths: Sequence[int], context_length: int) -> list[Group]:
    """Group by the number of characters that the model saw in the block, in ranges that double."""
    targets = np.concatenate([np.arange(length) for length in lengths]) - 1
    seen = targets % context_length + 1  # the first target of a block follows one character
    edges = [1]
    while edges[-1] < context_length:
        edges.append(min(2 * edges[-1], context_length))
    names = [
        str(high) if high == low + 1 else f"{low + 1} to {high}"
        for low, high in zip([0, *edges], edges, strict=False)
    ]
    return _groups(losses, np.array(names)[np.searchsorted(edges, seen)], names)


def by_class(text: str, losses: Nats) -> list[Group]:
    """Group by kind of character; a whole line like "ROMEO:" is a speaker's name."""
    labels = np.array([_class_of(character) for character in text], dtype="U20")
    for found in _SPEAKER.finditer(text):
        labels[found.start() : found.end()] = "speaker's name"
    return _groups(losses, labels)


def _class_of(character: str) -> str:
    if character == "\n":
        return "newline"
    if character.isspace():
        return "space"
    if character.isalpha():
        return "capital letter" if character.isupper() else "small letter"
    return "digit" if character.isdigit() else "punctuation"


def by_place_in_word(text: str, losses: Nats) -> list[Group]:
    """Group letters by their place in the word, counted from 1."""
    labels = np.full(len(text), "between words", dtype="U20")
    for found in WORD.finditer(text):
        for place, position in enumerate(range(*found.span()), start=1):
            later = place >= _LAST_PLACE
            labels[position] = f"letter {_LAST_PLACE} or later" if later else f"letter {place}"
    return _groups(losses, labels)


def by_document(losses: Nats, lengths: Sequence[int]) -> list[Group]:
    """Group by document, in their order; one without predicted characters has no group."""
    names = [f"document {number}" for number in range(1, len(lengths) + 1)]
    return _groups(losses, np.repeat(names, lengths), names)


def surprising_passages(text: str, losses: Nats, count: int = 20) -> list[Passage]:
    """Return the passages with the highest mean loss, the worst first, without overlaps."""
    size = min(_PASSAGE_CHARACTERS, len(text))
    sums = np.concatenate([[0.0], np.nan_to_num(losses).cumsum()])
    means = (sums[size:] - sums[:-size]) / size
    passages: list[Passage] = []
    while len(passages) < count and means.max(initial=-1.0) > 0:
        start = int(means.argmax())
        passages.append(Passage(start, text[start : start + size], float(means[start])))
        means[max(0, start - size + 1) : start + size] = -1.0
    return passages


def _groups(losses: Nats, labels: NDArray[np.str_], names: list[str] | None = None) -> list[Group]:
    """Group characters by their labels, in the order of `names` (by default, alphabetically)."""
    predicted = np.isfinite(losses)
    total = losses[predicted].sum()
    groups = []
    for name in sorted(set(labels)) if names is None else names:
        values = losses[predicted & (labels == name)]
        if len(values):
            share = float(values.sum() / (total or 1.0))  # a certain text has no loss
            groups.append(Group(str(name), len(values), float(values.mean()), share))
    return groups
