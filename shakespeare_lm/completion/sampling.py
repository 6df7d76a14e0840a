"""logits -> next ids, greedy or sampled, by which texts grow.

Randomness is passed in, and the logits are never modified. Order of the filters: temperature,
top-k, top-p, min-p; each works on what the ones before it have kept.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from shakespeare_lm.completion.decoder import Decoder
from shakespeare_lm.completion.inference import check_all_finite
from shakespeare_lm.errors import check_at_least, check_probability, check_type

DEFAULT_TEMPERATURE = 0.8


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
    temperature: float = DEFAULT_TEMPERATURE
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


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    randoms: Sequence[random.Random],
    choices: int,
) -> Iterator[list[int]]:
    """Yield the next id of every prompt, then the one after it, endlessly.

    Args:
        decoder: computes the logits after each text.
        prompts: at least one id each; only the last `context_length` are used.
        options: how to sample.
        randoms: a generator per prompt, so that a prompt's text does not depend on the others.
        choices: number of ids to choose from, which excludes the padding symbol after them.
    """
    # Ids that have left the window are dropped: memory does not grow with the text.
    texts = [deque(prompt, maxlen=decoder.context_length) for prompt in prompts]
    while True:
        logits = decoder.logits(texts)[:, :choices]
        ids = next_ids(logits, options, [source.random() for source in randoms]).tolist()
        for text, number in zip(texts, ids, strict=True):
            text.append(number)
        yield ids


def next_ids(logits: Tensor, options: SamplingOptions, uniform: Sequence[float] | Tensor) -> Tensor:
    """Choose one id for each row of logits `[batch, vocab]`; greedy takes the lowest id on ties.

    `uniform` has a random number per row, 0 <= u < 1, for inverse-CDF sampling: the id does not
    depend on the other rows. Non-finite logits are a `UserError`.
    """
    ids = choose_ids(logits, options, uniform)
    check_all_finite(ids < logits.shape[-1])
    return ids


def choose_ids(
    logits: Tensor, options: SamplingOptions, uniform: Sequence[float] | Tensor
) -> Tensor:
    """Choose ids like `next_ids`, but without waiting for a GPU: a row with non-finite logits (NaN
    or infinity) gets the id vocab, which is not a valid one.
    """
    choices = logits.shape[-1]
    if options.greedy or options.temperature == 0.0:
        return torch.where(logits.amax(dim=-1).isfinite(), logits.argmax(dim=-1), choices)
    cumulative = next_probabilities(logits, options).cumsum(dim=-1)
    # The sum is 1 up to rounding, and u < 1 is below it: an id of probability 0 is never chosen.
    u = torch.as_tensor(uniform, dtype=cumulative.dtype, device=cumulative.device)
    return choices - (cumulative > u[:, None] * cumulative[:, -1:]).sum(dim=-1)


def next_probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Return the distribution that `next_ids` samples from: `[batch, vocab]`, in float64."""
    logits = logits.detach()
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    # In float64, a tiny temperature leaves one character instead of infinities.
    scaled = logits.double() / max(float(options.temperature), 1e-200)
    if any(value is not None for value in (options.top_k, options.top_p, options.min_p)):
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
