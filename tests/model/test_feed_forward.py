"""The feed-forward layer: its formula, and which of its layers is a residual projection."""

import pytest
import torch
from torch.nn import functional as F

from shakespeare_lm.model.config import Activation, NetworkConfig
from shakespeare_lm.model.feed_forward import FeedForward
from shakespeare_lm.model.initialisation import ResidualProjection


def small(activation: Activation, bias: bool) -> NetworkConfig:
    return NetworkConfig(d_model=4, num_heads=1, d_feedforward=6, activation=activation, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_it_is_two_linear_layers_around_the_nonlinearity(
    activation: Activation, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = FeedForward(small(activation, bias))
    x = torch.randn(2, 3, 4)
    inner = F.linear(x, layer[0].weight, layer[0].bias)
    assert inner.shape == (2, 3, 6)
    inner = {"gelu": F.gelu, "relu": F.relu}[activation](inner)
    torch.testing.assert_close(layer(x), F.linear(inner, layer[2].weight, layer[2].bias))
    assert len(list(layer.parameters())) == (4 if bias else 2)


def test_its_last_layer_writes_to_the_residual_stream() -> None:
    layer = FeedForward(small("gelu", bias=True))
    assert [isinstance(part, ResidualProjection) for part in layer] == [False, False, True]
