"""transformer -> loss: logits and targets become nats.

Enters: logits, targets and the mask that says which targets are real. Leaves: a sum and a count,
which the caller divides once, so that no mean of means can creep in.
"""

import torch.nn.functional as F
from torch import Tensor


def masked_cross_entropy(
    logits: Tensor, targets: Tensor, target_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy summed over the real targets, in nats, and their number.

    Args:
        logits: `[batch, time, vocab]`; computed on in float32 at least.
        targets: `[batch, time]` ids. What stands under the mask has no influence, not even on
            gradients.
        target_mask: `[batch, time]`, True for a real target.

    Returns:
        (nats, count), both scalars. Without any real target: (0, 0), and gradients of zero.
    """
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.masked_fill(~target_mask, -100).flatten(),
        ignore_index=-100,
        reduction="sum",
    )
    return nats, target_mask.sum()
