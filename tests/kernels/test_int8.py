"""Layers with 8-bit weights: what they compute, and that a network with them predicts the same."""

import pytest
import torch
from torch import Tensor, nn

from shakespeare_lm.kernels import int8
from shakespeare_lm.kernels.int8 import MOST_ROWS, Int8Linear, quantise
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.networks import NetworkOptions, build_network


def int8_linear(weight: Tensor, bias: Tensor) -> Int8Linear:
    linear = nn.Linear(*weight.T.shape, dtype=torch.bfloat16)
    linear.weight.data, linear.bias.data = weight.bfloat16(), bias.bfloat16()
    return Int8Linear(linear)


@pytest.mark.parametrize("rows", [1, MOST_ROWS, MOST_ROWS + 1])
def test_weights_that_are_steps_of_their_row_are_exact(rows: int) -> None:
    integers = torch.randint(-127, 128, (6, 32))
    integers[:, 0] = 127
    weight = integers * torch.tensor([1.0, 0.5, 0.25, 2.0, 4.0, 0.125])[:, None] / 64
    bias = torch.arange(6.0)
    x = torch.randint(-3, 4, (1, rows, 32)).bfloat16()
    made = int8_linear(weight, bias)
    # Integers up to 127 and these scales fit into bfloat16, so only the result is rounded.
    expected = (x.double() @ weight.double().T + bias).bfloat16()
    torch.testing.assert_close(made(x), expected, rtol=2**-7, atol=0.07)
    assert torch.equal(made.integers, integers.to(torch.int8))


def test_a_weight_is_at_most_half_a_step_of_its_own_row_off() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 320) * torch.tensor([1e-3, 1.0, 30.0, 1e-6, 1.0])[:, None]
    weight[4] = 0.0
    made = int8_linear(weight, torch.zeros(5))
    rounded = made.integers.float() * made.scales.float()[:, None]
    largest = weight.bfloat16().float().abs().amax(dim=1, keepdim=True)
    # Half a step, and 2^-8 of the largest, because scales are in bfloat16.
    assert (rounded - weight.bfloat16().float()).abs().le(largest * (0.5 / 127 + 2**-8)).all()
    assert (made.weight[4] == 0).all()
    assert torch.isfinite(made(torch.randn(1, 320).bfloat16())).all()


def test_few_and_many_rows_and_the_plain_product_have_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    made = int8_linear(torch.randn(24, 64), torch.randn(24))
    x = torch.randn(MOST_ROWS + 1, 64).bfloat16()
    together, alone = made(x), torch.cat([made(row[None]) for row in x])
    # Sums of 64 terms in another order, rounded to bfloat16 (2^-8).
    torch.testing.assert_close(together, alone, rtol=2**-6, atol=0.1)
    assert made(x[:, None]).shape == (MOST_ROWS + 1, 1, 24)
    assert made(x[0]).shape == (24,)
    every_second = torch.stack([x, -x], dim=1)[:, 0][:2]  # rows that are apart in memory
    assert not every_second.is_contiguous()
    assert torch.equal(made(every_second), made(x[:2]))
    monkeypatch.setattr(int8, "PLAIN", frozenset(["int8"]))
    made.integers.zero_()  # which the plain version does not read
    assert torch.equal(made(x[:2]), nn.functional.linear(x[:2], made.weight, made.bias))


def test_layers_of_other_widths_are_left_as_they_are() -> None:
    made = nn.Sequential(nn.Linear(48, 32), nn.Sequential(nn.Linear(32, 5), nn.Linear(5, 96)))
    quantise(made.bfloat16())
    kinds = [type(layer) for layer in made.modules() if not list(layer.children())]
    assert kinds == [nn.Linear, Int8Linear, nn.Linear]


@pytest.mark.parametrize("options", [{"tied_head": True, "bias": True}, {"memory_order": 2}])
def test_a_network_with_8_bit_weights_predicts_nearly_the_same(options: dict) -> None:
    torch.manual_seed(0)
    sizes = {"context_length": 16, "num_layers": 2, "num_heads": 2, "d_model": 32}
    made = build_network(11, NetworkOptions(**sizes, previous_characters=4, **options))
    if isinstance(made, MemoryNetwork):
        made.ngrams.remember(torch.randint(10, (200,)), torch.tensor([200]))
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.2)
    ids = torch.randint(10, (1, 16))
    before = made(ids).float()
    made.bfloat16().eval()
    quantise(made)
    left = {name for name, layer in made.named_modules() if isinstance(layer, nn.Linear)}
    assert left == ({"read_ngrams"} if isinstance(made, MemoryNetwork) else set())
    # In one product for many rows, and in one for few.
    for rows in (16, MOST_ROWS):
        after = made(ids[:, :rows]).float()
        assert (after - before[:, :rows]).norm() < 0.03 * before[:, :rows].norm()
