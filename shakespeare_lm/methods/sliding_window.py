"""text -> predictions of a network that sees `context_length` characters of it at once."""

from collections.abc import Iterator, Sized
from itertools import chain

import torch
from torch import Tensor, nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import check_memory
from shakespeare_lm.methods.ngram_memory import leaving_out

# About as many are predicted at once; fewer if there are thousands of symbols.
_CHARACTERS_TOGETHER, _LOGITS_TOGETHER = 8192, 1 << 24


def check_predictable(ids: Sized) -> None:
    """Raise a `UserError` if there are fewer than two ids: nothing predicts the first."""
    if len(ids) < 2:
        raise UserError(f"the text has {len(ids)} known characters: expected at least 2")


def predictions(
    network: nn.Module, ids: Tensor, context_length: int, stride: int, is_counted: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits `[characters, vocab]` and targets `[characters]`, in the order of the text.

    Each window after the first predicts `stride` characters: stride = context_length gives disjoint
    blocks, as in training; 1 gives every character all of its context. `is_counted`: a memory in
    the network has counted this very text (see `leaving_out`).

    Raises:
        UserError: if there are fewer than two ids.
    """
    check_predictable(ids)
    device = next(chain(network.parameters(), network.buffers())).device
    ids = ids.to(device).long()
    kept = context_length + 1 - stride
    columns = torch.arange(min(context_length, len(ids) - 1), device=device)
    starts = torch.arange(0, max(1, len(ids) - kept), stride, device=device)
    vocab_size = getattr(network, "vocab_size", 1)
    # The logits and a copy or two.
    check_memory(12 * len(columns) * vocab_size, "a window of the text", "use another model")
    together = min(_CHARACTERS_TOGETHER, _LOGITS_TOGETHER // vocab_size)
    for group in starts.split(max(1, together // context_length)):
        positions = group[:, None] + columns
        inputs, targets = (ids[(positions + i).clamp(max=len(ids) - 1)] for i in (0, 1))
        with leaving_out(network, targets if is_counted else None):
            logits = network(inputs)
        # Each window predicts the characters that no window before it has predicted.
        new = (columns >= kept - 1) | (group == 0)[:, None]
        new &= positions + 1 < len(ids)
        yield logits[new], targets[new]
