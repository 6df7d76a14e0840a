"""loss -> log: sums and counts of many batches, on many processes, become one mean.

Enters: pairs of sum and count. Leaves: their quotient, divided once. Neither Lightning 2.6.6 nor
torchmetrics 1.9.0 does this exactly: the mean of `self.log` rounds the mean count of several
processes down, and `MeanMetric` drops NaN, or, when told to keep it, all weights.
"""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanPerCharacter(Metric):
    """The sum of all totals over the sum of all counts; NaN stays NaN."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        """Add a batch's total (nats, say) and the number of characters it is over; both scalars."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count
