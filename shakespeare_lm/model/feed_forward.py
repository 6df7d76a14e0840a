"""Inside the transformer: the feed-forward layer, which works on each position by itself (Vaswani
et al. 2017, "Attention Is All You Need", section 3.3).
"""

from torch import nn

from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.initialisation import ResidualProjection


class FeedForward(nn.Sequential):
    """Expand `[batch, time, d_model]`, apply the nonlinearity, project back."""

    def __init__(self, config: NetworkConfig) -> None:
        width = config.feedforward_width
        super().__init__(
            nn.Linear(config.d_model, width, bias=config.bias),
            {"gelu": nn.GELU, "relu": nn.ReLU}[config.activation](),
            ResidualProjection(width, config.d_model, bias=config.bias),
        )
