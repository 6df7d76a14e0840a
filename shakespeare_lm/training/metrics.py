"""Sums and counts of many batches, on many processes, become one mean, divided once.

Lightning 2.6.6's `self.log` rounds the mean count of several processes down (not reported);
`MeanMetric` of torchmetrics 1.9.0 drops NaN, or all weights if it is told to keep NaN
(https://github.com/Lightning-AI/torchmetrics/issues/3434).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import Perplexity


class _Float32Metric(Metric):
    """A metric whose sums stay in float32 when the module is converted to half (`bf16-true`)."""

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
    ) -> "_Float32Metric":
        super()._apply(lambda state: fn(state).to(state.dtype), exclude_state)
        return self


class Float32Perplexity(_Float32Metric, Perplexity):
    """The perplexity of torchmetrics, always summed in float32."""


class MeanPerCharacter(_Float32Metric):
    """The sum of all totals divided by the sum of all counts; NaN stays NaN."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        """Add the total of a batch (of nats, say) and its number of characters; both scalars."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count
