"""The weights that are shown are those that the fused attention uses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shakespeare_lm import UserError, attention_weights
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer

SIZES = {"num_layers": 3, "num_heads": 2, "d_model": 8, "context_length": 6}
IDS = torch.tensor([[1, 2, 3, 4, 5, 0], [5, 5, 1, 0, 2, 3]])


def small(**options: Any) -> CausalTransformer:
    torch.manual_seed(0)
    network = CausalTransformer(7, NetworkConfig(**SIZES, **options)).double()
    for parameter in network.parameters():  # some are zero at first
        nn.init.normal_(parameter, std=0.5)
    return network


@pytest.mark.parametrize("options", [
    {}, {"positions": "rotary"}, {"positions": "learned", "norm": "post"}, {"qkv_bias": True},
])  # fmt: skip
def test_weights_times_values_are_what_the_fused_attention_puts_out(
    options: dict[str, Any],
) -> None:
    network = small(dropout=0.5, attention_dropout=0.5, **options)
    weights = attention_weights(network, IDS)
    assert weights.shape == (3, 2, 2, 6, 6)
    seen: list[tuple[Tensor, Any, Tensor]] = []
    for block in network.blocks:
        block.attention.register_forward_hook(
            lambda _, given, output: seen.append((*given[:2], output))
        )
    network.eval()(IDS)
    for layer, block in enumerate(network.blocks):
        x, rotation, output = seen[layer]
        values = block.attention.project(x, rotation)[2]
        mixed = (weights[layer] @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(block.attention.output(mixed), output)


def test_each_row_sums_to_one_and_never_looks_ahead() -> None:
    weights = attention_weights(small(), IDS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 2, 6, dtype=torch.float64))
    assert torch.equal(weights, weights.tril())


def test_the_network_is_left_as_it_was() -> None:
    network = small().train()
    attention_weights(network, IDS[:, :2])
    with pytest.raises(UserError, match="7 characters are more than the context_length, 6"):
        attention_weights(network, torch.zeros(1, 7, dtype=torch.long))
    assert network.training
    assert not any(block.attention._forward_pre_hooks for block in network.blocks)
