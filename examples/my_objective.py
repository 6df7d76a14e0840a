"""An objective of your own: z-loss (Chowdhery et al. 2022, PaLM) keeps the logits small.

    python scripts/fit.py --objective examples.my_objective.ZLoss

The weights do not need it: completing with the run does not import this file; resuming it does.
"""

from torch import Tensor

from shakespeare_lm import Objective, TrainingStep

WEIGHT = 1e-4


class ZLoss(Objective):
    """Adds the squared logarithm of the softmax's denominator; its own parameters, if it had any,
    would be trained too.
    """

    def forward(self, loss: Tensor, step: TrainingStep) -> Tensor:
        """Return the new loss of a training step, in nats per character."""
        z = step.logits.float().logsumexp(-1)[step.batch.target_mask]
        return loss + WEIGHT * z.square().mean()
