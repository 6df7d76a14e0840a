"""Inside the transformer: the feed-forward layer, which works on each position by itself.

Enters: `[batch, time, d_model]`. Leaves: the same shape (Vaswani et al. 2017, "Attention Is All You
Need", section 3.3).
"""

from typing import Literal

from torch import nn

from shakespeare_lm.model.initialisation import ResidualProjection

Activation = Literal["gelu", "relu"]


class FeedForward(nn.Sequential):
    """Expand to `width`, apply the nonlinearity, project back to `d_model`."""

    def __init__(self, d_model: int, width: int, activation: Activation, bias: bool) -> None:
        super().__init__(
            nn.Linear(d_model, width, bias=bias),
            nn.GELU() if activation == "gelu" else nn.ReLU(),
            ResidualProjection(width, d_model, bias=bias),
        )
