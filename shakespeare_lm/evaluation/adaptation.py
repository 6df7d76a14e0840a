"""A network and a text -> its losses when it learns from the text while it reads it, and what it
learned. The rules that make them fair: see `Predictor`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from shakespeare_lm.completion.predictor import Predictor
from shakespeare_lm.completion.recent_ngrams import RecentNGrams
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.evaluation.breakdown import by_class
from shakespeare_lm.evaluation.losses import Nats

RULES = (
    "Adaptive models learn while they read: a prediction depends on earlier characters only, its "
    "probabilities sum to one, a character is predicted before it is learned from, and the text is "
    "read once."
)


@dataclass(frozen=True)
class Learned:
    """What adaptation is worth for one kind of character."""

    name: str
    characters: int
    frozen_nats: float  # in sliding windows
    adaptive_nats: float  # with n-grams


@dataclass(frozen=True)
class Adaptation:
    """How good a model is that learns from what it has read."""

    network_nats: float  # the mean loss of the network that learns
    nats: float  # with n-grams of what it has read mixed in
    learned: list[Learned]


def adapt(
    network: nn.Module,
    texts: Sequence[str],
    documents: Documents,
    context_length: int,
    num_characters: int,
    frozen: Nats,
    progress: Callable[[int, int], None] | None = None,
) -> Adaptation:
    """Read documents with a copy of a network that learns; `frozen` are its losses without."""
    alone, mixed = _losses(
        Predictor(network, context_length, num_characters, adaptive=True),
        RecentNGrams(num_characters), documents, progress,
    )  # fmt: skip
    kinds = zip(*(by_class("".join(texts), losses) for losses in (frozen, mixed)), strict=True)
    learned = [Learned(one.name, one.characters, one.nats, other.nats) for one, other in kinds]
    return Adaptation(float(np.nanmean(alone)), float(np.nanmean(mixed)), learned)


def _losses(
    predictor: Predictor,
    ngrams: RecentNGrams,
    documents: Documents,
    progress: Callable[[int, int], None] | None,
) -> tuple[Nats, Nats]:
    """Return the losses without and with n-grams, `[characters]`; NaN for each document's first."""
    alone, mixed = np.full((2, len(documents.ids)), np.nan)
    start = 0
    for ids in documents.ids.split(documents.lengths.tolist()):
        ngrams.begin()
        for place, log_probabilities in enumerate(predictor.read(ids.tolist()), start=start + 1):
            character = int(documents.ids[place])
            alone[place] = -log_probabilities[character]
            mixed[place] = -ngrams.mix(log_probabilities)[character]
            ngrams.observe(character)
            if progress is not None:
                progress(place + 1, len(alone))
        start += len(ids)
    return alone, mixed
