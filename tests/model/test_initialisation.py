"""The initial weights: standard deviations, zeros and ones."""

import math

import pytest
import torch
from torch import nn

from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer


def network(num_layers: int, zero_init: bool) -> CausalTransformer:
    torch.manual_seed(0)
    config = NetworkConfig(
        context_length=64, num_layers=num_layers, num_heads=2, d_model=64, positions="learned",
        bias=True, qkv_bias=True, previous_characters=4, zero_init=zero_init,
    )  # fmt: skip
    return CausalTransformer(66, config)


def matrices(network: nn.Module, residual: bool) -> dict[str, torch.Tensor]:
    last = ("attention.output.weight", "feed_forward.2.weight")
    found = {name: p for name, p in network.named_parameters() if p.ndim == 2}
    return {name: p for name, p in found.items() if name.endswith(last) is residual}


@pytest.mark.parametrize("num_layers", [1, 3])
def test_layers_that_write_to_the_residual_stream_are_drawn_smaller(num_layers: int) -> None:
    made = network(num_layers, zero_init=False)
    small, others = matrices(made, residual=True), matrices(made, residual=False)
    assert len(small) == 2 * num_layers
    # The standard deviation of 4096 numbers is known to within 1.1 %.
    for name, weight in small.items():
        expected = 0.02 / math.sqrt(2 * num_layers)
        assert weight.std().item() == pytest.approx(expected, rel=0.06), name
    for name, weight in others.items():
        assert weight.std().item() == pytest.approx(0.02, rel=0.06), name
        assert weight.mean().item() == pytest.approx(0, abs=0.002), name


def test_zero_init_zeroes_the_residual_projections_and_the_head_only() -> None:
    made = network(2, zero_init=True)
    assert not any(weight.any() for weight in matrices(made, residual=True).values())
    zero = {name for name, w in matrices(made, residual=False).items() if not w.any()}
    assert zero == {"head.weight"}


@pytest.mark.parametrize("zero_init", [True, False])
def test_biases_start_at_zero_and_norms_as_the_identity(zero_init: bool) -> None:
    vectors = {n: p for n, p in network(2, zero_init).named_parameters() if p.ndim == 1}
    for name, vector in vectors.items():
        expected = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        assert bool((vector == expected).all()), name
    assert len(vectors) == 2 * (4 + 4) + 2 + 1  # of each block, of the final norm, of the head
