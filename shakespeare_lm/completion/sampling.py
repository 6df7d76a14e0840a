"""logits -> next ids: greedy, or drawn at random.

Enters: the logits of the next character of several texts, `[batch, vocab]`, and for each a random
number. Leaves: their ids. The randomness is passed in, and the logits are never changed. Order of
the filters: temperature, top-k, top-p, min-p; each sees what those before it have left.
"""

from collections.abc import Sequence
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
        min_p: keep only characters at least this fraction as likely as the likeliest (Nguyen et
            al. 2024).

    Raises:
        UserError: for a value out of range.
    """

    greedy: bool = False
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        # Written so that NaN, which compares with nothing, is refused too.
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: accepted is 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: accepted is 1 or more")
        for name, share in {"top_p": self.top_p, "min_p": self.min_p}.items():
            if share is not None and not 0.0 < share <= 1.0:
                raise UserError(f"{name} is {share}: accepted is more than 0 and at most 1")


def next_ids(logits: Tensor, decoding: Decoding, uniform: Sequence[float]) -> Tensor:
    """Choose one id for each row of logits `[batch, vocab]`; greedy takes the lowest id on ties.

    Args:
        logits: of any dtype, on any device.
        decoding: how to choose.
        uniform: a random number per row, 0 <= u < 1: the row's place in its cumulated
            probabilities, so that one number gives one id, whatever the rows beside it.
    """
    if decoding.greedy or decoding.temperature == 0.0:
        return logits.argmax(dim=-1)
    cumulated = next_probabilities(logits, decoding).cumsum(dim=-1)
    # The sum is 1 up to rounding; u < 1 then lies below it, so an id of probability 0 is never met.
    places = torch.tensor(uniform, dtype=cumulated.dtype, device=cumulated.device)
    return (cumulated <= places[:, None] * cumulated[:, -1:]).sum(dim=-1)


def next_probabilities(logits: Tensor, decoding: Decoding) -> Tensor:
    """Return what `next_ids` draws from: `[batch, vocab]`, in double precision."""
    logits = logits.detach()
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no doubles
    # Doubles hold any logits divided by as little as this: a tiny temperature leaves one character
    # instead of infinities.
    scaled = logits.double() / max(decoding.temperature, 1e-200)
    if decoding.top_k or decoding.top_p or decoding.min_p:
        scaled = scaled.masked_fill(~_kept(scaled, decoding), -torch.inf)
    return scaled.softmax(dim=-1)


def _kept(scaled: Tensor, decoding: Decoding) -> Tensor:
    """Return which ids pass the filters, `[batch, vocab]`; the likeliest always does."""
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    kept = torch.ones_like(ordered, dtype=torch.bool)
    if decoding.top_k is not None:
        kept[:, decoding.top_k :] = False
    if decoding.top_p is not None:
        probabilities = ordered.masked_fill(~kept, -torch.inf).softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        kept &= before < decoding.top_p
    if decoding.min_p is not None:
        kept &= (ordered - ordered[:, :1]).exp() >= decoding.min_p
    return torch.zeros_like(kept).scatter(-1, order, kept)
