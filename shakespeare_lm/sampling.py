"""logits -> next id: greedy, or drawn at random.

Enters: the logits of one next character, `[vocab]`. Leaves: its id. The randomness is passed in,
and the logits are never changed. Order of the filters: temperature, then top-k, then top-p.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from shakespeare_lm.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How the next character is chosen.

    Args:
        greedy: always the most likely one.
        temperature: logits are divided by it; below 1 is bolder, above 1 is wilder, 0 is greedy.
        top_k: keep only this many most likely characters, exactly as many even on ties.
        top_p: keep only the fewest most likely characters that have this probability together
            (Holtzman et al. 2020).

    Raises:
        UserError: for a value out of range.
    """

    greedy: bool = False
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        # Written so that NaN, which compares with nothing, is refused too.
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: accepted is 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: accepted is 1 or more")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p is {self.top_p}: accepted is more than 0 and at most 1")


def next_id(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """Choose one id from logits `[vocab]`; greedy takes the lowest id on ties.

    `generator` must live on the CPU, so that one seed gives one text on every device.
    """
    if decoding.greedy or decoding.temperature == 0.0:
        return int(logits.argmax())
    probabilities = next_probabilities(logits, decoding)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def next_probabilities(logits: Tensor, decoding: Decoding) -> Tensor:
    """Return what `next_id` draws from: `[vocab]`, in double precision, on the CPU."""
    logits = logits.detach().cpu().double()  # in this order: MPS has no doubles
    # The largest becomes 0 first: a tiny temperature then leaves one character instead of
    # infinities.
    scaled = (logits - logits.max()) / decoding.temperature
    ordered, order = scaled.sort(descending=True, stable=True)
    kept = torch.ones_like(ordered, dtype=torch.bool)
    if decoding.top_k is not None:
        kept[decoding.top_k :] = False
    if decoding.top_p is not None:
        sorted_probabilities = ordered.masked_fill(~kept, -torch.inf).softmax(dim=-1)
        before = sorted_probabilities.cumsum(dim=-1) - sorted_probabilities
        kept &= before < decoding.top_p
    chosen = torch.zeros_like(kept).scatter(0, order, kept)
    return scaled.masked_fill(~chosen, -torch.inf).softmax(dim=-1)
