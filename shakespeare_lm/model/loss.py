"""Logits and targets become a sum of nats and a count; the caller divides once, so that the mean
weighs every character the same.
"""

import torch.nn.functional as F
from torch import Tensor


def masked_cross_entropy(
    logits: Tensor, targets: Tensor, target_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy summed over the real targets, in nats, and their number.

    Args:
        logits: `[batch, time, vocab]`; converted to float32.
        targets: `[batch, time]` ids. Masked targets have no influence, not even on gradients.
        target_mask: `[batch, time]`, True for a real target; if none is, the result is (0, 0).
    """
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.masked_fill(~target_mask, -100).flatten(),
        ignore_index=-100,
        reduction="sum",
    )
    return nats, target_mask.sum()
