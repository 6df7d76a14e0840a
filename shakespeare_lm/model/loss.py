"""transformer -> loss: logits and targets become nats.

Enters: logits, targets and the mask that says which targets are real. Leaves: a sum and a count.
The caller divides once, so that the mean weighs every character the same: `training_step` for the
loss of a step, `MeanPerCharacter` for `val_loss`.
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
        target_mask: `[batch, time]`, True for a real target.

    Returns:
        (nats, count), both scalars; (0, 0) with zero gradients if no target is real.
    """
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.masked_fill(~target_mask, -100).flatten(),
        ignore_index=-100,
        reduction="sum",
    )
    return nats, target_mask.sum()
