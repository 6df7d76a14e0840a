"""n-grams of the text that has just been read, mixed with a network's predictions: what a frozen
network cannot know, such as the names of a new play.

Each order's prediction (Witten & Bell 1991) is a factor of the mixture, with a power that depends
on how often its context was seen; powers are learned from each character (Mahoney 2005, "Adaptive
weighing of context models for lossless data compression").
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Measured: see docs/EXPERIMENTS.md.
_MAX_ORDER = 8
_LEARNING_RATE = 1e-3
_AGEING = 0.8  # of what followed a context earlier, each time that it occurs
_MOST_DIFFERENT = 4  # contexts that more characters follow share their powers
_SMALLEST_PROBABILITY = 1e-290  # whose logarithm is finite in all orders


class RecentNGrams:
    """Mixes predictions of the next of `num_characters` characters: `mix`, then `observe`."""

    def __init__(self, num_characters: int) -> None:
        self.num_characters = num_characters
        # For each order, by the characters before: how often each character followed.
        self._counts: list[dict[tuple[int, ...], dict[int, float]]]
        self._counts = [{} for _ in range(_MAX_ORDER)]
        self._powers: dict[Hashable, float] = defaultdict(float)
        self._experts: list[tuple[Hashable, Floats]] = []
        self._mixed = np.zeros(num_characters)
        self.begin()

    def begin(self) -> None:
        """Start a new document; what was counted and learned stays."""
        self._recent: deque[int] = deque(maxlen=_MAX_ORDER)

    def mix(self, log_probabilities: Floats) -> Floats:
        """Return the mixture's log-probabilities for the network's, `[characters]`."""
        network = ("network", min(5, int(-4 * log_probabilities.max())))  # how sure it is
        self._powers.setdefault(network, 1.0)
        lowest = np.exp(log_probabilities).clip(min=_SMALLEST_PROBABILITY)
        self._experts = [(network, log_probabilities), *self._orders(lowest)]
        logits = sum(self._powers[state] * expert for state, expert in self._experts)
        self._mixed = logits - np.logaddexp.reduce(logits)
        return self._mixed

    def _orders(self, below: Floats) -> Iterator[tuple[Hashable, Floats]]:
        """Yield the predictions of the orders whose contexts were seen, each interpolated with the
        one below, the first with the network's; and what their powers depend on.
        """
        for order, context in enumerate(self._contexts(), start=1):
            followed = self._counts[order - 1].get(context)
            if followed is None:
                return
            different, total = len(followed), sum(followed.values())
            below = different * below
            below[list(followed)] += list(followed.values())
            below /= different + total
            state = order, min(different, _MOST_DIFFERENT), round(total).bit_length()
            yield state, np.log(below)

    def _contexts(self) -> Iterator[tuple[int, ...]]:
        recent = tuple(self._recent)
        return (recent[-order:] for order in range(1, len(recent) + 1))

    def observe(self, character: int) -> None:
        """Learn from the character that `mix` predicted, and count it."""
        error = -np.exp(self._mixed)
        error[character] += 1
        for state, expert in self._experts:
            self._powers[state] += _LEARNING_RATE * float(expert @ error)
        for counts, context in zip(self._counts, self._contexts(), strict=False):
            is_new = context not in counts
            followed = counts.setdefault(context, {})
            for other in followed:
                followed[other] *= _AGEING
            followed[character] = followed.get(character, 0.0) + 1.0
            if is_new:  # longer contexts are counted once this one has occurred again
                break
        self._recent.append(character)
