"""A model and a text -> can the text be extracted from the model?

Enters: a `Completer` and documents. Leaves: how often greedy completion of a piece of the text
gives what follows it there (Carlini et al. 2022, "Quantifying memorization across neural language
models").
"""

import random
from collections.abc import Sequence

from shakespeare_lm.completion.completer import Completer

SUFFIXES = (32, 64)
_PREFIXES = 256


def extraction_rates(
    completer: Completer, documents: Sequence[str], prefix: int, seed: int
) -> list[float | None]:
    """Return, for each length in `SUFFIXES`, how often that many greedy characters are all right;
    None if no document is long enough.

    Args:
        completer: the model.
        documents: where 256 pieces are taken from, at random; fewer from a short text.
        prefix: how many characters the model is given.
        seed: of the choice.
    """
    size = prefix + max(SUFFIXES)
    pieces = [documents[i][start : start + size] for i, start in _places(documents, size, seed)]
    if not pieces:
        return [None] * len(SUFFIXES)
    made = completer.complete(
        [piece[:prefix] for piece in pieces], max(SUFFIXES), temperature=0, unknown="skip"
    )
    return [
        sum(
            text[:length] == piece[prefix : prefix + length]
            for text, piece in zip(made, pieces, strict=True)
        )
        / len(pieces)
        for length in SUFFIXES
    ]


def _places(documents: Sequence[str], size: int, seed: int) -> list[tuple[int, int]]:
    """Return where pieces of this size begin, at random: numbers of documents, and characters."""
    starts = [max(0, len(document) - size + 1) for document in documents]
    if not sum(starts):
        return []
    generator = random.Random(seed)
    chosen = generator.choices(range(len(documents)), weights=starts, k=_PREFIXES)
    return sorted({(i, generator.randrange(starts[i])) for i in chosen})
