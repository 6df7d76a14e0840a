"""loss -> log: sums and counts of many batches, on many processes, become one mean.

Enters: pairs of sum and count. Leaves: their quotient, divided once. Neither Lightning 2.6.6 nor
torchmetrics 1.9.0 does this exactly: the mean of `self.log` rounds the mean count of several
processes down, and `MeanMetric` drops NaN, or, when told to keep it, all weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import Perplexity


class _KeepsPrecision(Metric):
    """A sum stays in single precision when the network around it is moved to half (`bf16-true`)."""

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
    ) -> "_KeepsPrecision":
        super()._apply(lambda state: fn(state).to(state.dtype), exclude_state)
        return self


class PrecisePerplexity(_KeepsPrecision, Perplexity):
    """torchmetrics' perplexity, summed in single precision always."""


class MeanPerCharacter(_KeepsPrecision):
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
