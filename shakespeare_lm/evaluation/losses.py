"""A network and a text -> the loss of every character."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shakespeare_lm.completion.inference import check_all_finite, evaluating
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.errors import UserError, check_at_least
from shakespeare_lm.methods.ngram_memory import memories_in
from shakespeare_lm.methods.sliding_window import predictions

Nats = NDArray[np.float64]


def character_losses(
    network: nn.Module,
    documents: Documents,
    context_length: int,
    stride: int | None = None,
    bfloat16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Nats:
    """Return the loss of every character in nats, `[characters]`; NaN for the first of each
    document, which nothing predicts.

    Args:
        network: maps ids `[batch, time]` to logits `[batch, time, vocab]`.
        documents: the text; documents may be empty.
        context_length: how many characters the network sees.
        stride: how many new characters each window predicts. By default the whole context: disjoint
            blocks, as in `val_loss`. 1 gives every character all of its context, and takes as many
            times longer as the context is long.
        bfloat16: compute as training with `bf16-mixed` does.
        progress: called with the numbers of characters done, and in all.

    Raises:
        UserError: if the stride is less than 1, a loss is not finite, or memories differ.
    """
    stride = context_length if stride is None else stride
    check_at_least(1, stride=stride)
    stride = min(stride, context_length)
    counted = {memory.has_counted(*documents) for memory in memories_in(network)}
    if len(counted) > 1:
        raise UserError("only some of the n-gram memories have counted this text: choose another")
    losses = np.full(len(documents.ids), np.nan)
    device, start = next(network.parameters()).device, 0
    with evaluating(network), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for ids in documents.ids.split(documents.lengths.tolist()):
            done, start = start + 1, start + len(ids)
            rows = predictions(network, ids, context_length, stride, True in counted)
            for logits, targets in rows if len(ids) > 1 else ():
                nats = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
                check_all_finite(nats.isfinite())
                losses[done : done + len(nats)] = nats.cpu().numpy()
                done += len(nats)
                if progress is not None:
                    progress(done, len(losses))
    return losses
