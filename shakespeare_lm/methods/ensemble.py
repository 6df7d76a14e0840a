"""Several networks as one, whose prediction is the mean of theirs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Maps ids `[batch, time]` to the logarithms of the mean of the networks' probabilities."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, ids: Tensor) -> Tensor:
        each = torch.stack([one(ids).float().log_softmax(-1) for one in self.networks])
        return each.logsumexp(0) - math.log(len(each))
