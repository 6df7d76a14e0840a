"""logits -> next ids: greedy, or sampled.

Randomness is passed in, and the logits are never modified. Order of the filters: temperature,
top-k, top-p, min-p; each works on what the ones before it have kept.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

import torch
from torch import Tensor

from shakespeare_lm.errors import check_at_least, check_probability, check_type


def random_numbers(seed: int | None) -> random.Random:
    """Return the random number generator of one completion; without a seed, an unseeded one."""
    # The text around the number keeps neighbouring seeds far apart, and -1 apart from 1.
    return random.Random() if seed is None else random.Random(f"completion {seed}")


class SamplingKeywords(TypedDict, total=False):
    """The names and types of `SamplingOptions`, for signatures that pass them on."""

    greedy: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None


@dataclass(frozen=True)
class SamplingOptions:
    """How the next character is chosen.

    Args:
        greedy: always take the most likely character.
        temperature: divides the logits; below 1 safer and more repetitive, above 1 more varied, 0
            is greedy.
        top_k: keep only this many of the most likely characters, exactly as many even on ties.
        top_p: nucleus sampling: keep only the fewest most likely characters whose probabilities add
            up to this (Holtzman et al. 2020).
        min_p: keep only characters at least this many times as likely as the likeliest (Nguyen et
            al. 2024).

    Raises:
        UserError: if a value has the wrong type or is out of range.
    """

    greedy: bool = False
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        check_type(bool, greedy=self.greedy)
        check_type(float, temperature=self.temperature)
        check_type(int | None, top_k=self.top_k)
        check_type(float | None, top_p=self.top_p, min_p=self.min_p)
        check_at_least(0, temperature=self.temperature)
        if self.top_k is not None:
            check_at_least(1, top_k=self.top_k)
        check_probability(top_p=self.top_p, min_p=self.min_p)

    @property
    def filters(self) -> bool:
        """Whether any filter is on: the options that default to None are the filters."""
        return any(getattr(self, f.name) is not None for f in fields(self) if f.default is None)


def next_ids(logits: Tensor, options: SamplingOptions, uniform: Sequence[float] | Tensor) -> Tensor:
    """Choose one id for each row of logits `[batch, vocab]`; greedy takes the lowest id on ties.

    `uniform` has a random number per row, 0 <= u < 1, for inverse-CDF sampling: the id does not
    depend on the other rows.
    """
    if options.greedy or options.temperature == 0.0:
        return logits.argmax(dim=-1)
    cumulative = next_probabilities(logits, options).cumsum(dim=-1)
    # The sum is 1 up to rounding, and u < 1 is below it: an id of probability 0 is never chosen.
    u = torch.as_tensor(uniform, dtype=cumulative.dtype, device=cumulative.device)
    return (cumulative <= u[:, None] * cumulative[:, -1:]).sum(dim=-1)


def next_probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Return the distribution that `next_ids` samples from: `[batch, vocab]`, in float64."""
    logits = logits.detach()
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    # In float64, a tiny temperature leaves one character instead of infinities.
    scaled = logits.double() / max(options.temperature, 1e-200)
    if options.filters:
        scaled = scaled.masked_fill(~_kept(scaled, options), -torch.inf)
    return scaled.softmax(dim=-1)


def _kept(scaled: Tensor, options: SamplingOptions) -> Tensor:
    """Return which ids pass the filters, `[batch, vocab]`; the likeliest always does."""
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    kept = torch.ones_like(ordered, dtype=torch.bool)
    if options.top_k is not None:
        kept[:, options.top_k :] = False
    if options.top_p is not None:
        probabilities = ordered.masked_fill(~kept, -torch.inf).softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        kept &= before < options.top_p
    if options.min_p is not None:
        kept &= (ordered - ordered[:, :1]).exp() >= options.min_p
    return torch.zeros_like(kept).scatter(-1, order, kept)
