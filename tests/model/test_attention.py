"""Attention: its definition, its masks, and what a cache gets to see."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from shakespeare_lm.model.attention import CausalSelfAttention, causal_padding_mask
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.positions import rotary_table, rotate

ROTATION = rotary_table(5, 4).double()


def attention_by_loops(
    attention: CausalSelfAttention, x: Tensor, rotation: Tensor | None
) -> Tensor:
    """Compute one position and one head at a time, from the definition."""
    batch, time, d_model = x.shape
    head_dim = d_model // attention.num_heads
    projected = x @ attention.query_key_value.weight.T
    if attention.query_key_value.bias is not None:
        projected = projected + attention.query_key_value.bias
    mixed = torch.zeros_like(x)
    for row, head in product(range(batch), range(attention.num_heads)):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        q, k, v = (part[:, columns] for part in projected[row].split(d_model, dim=-1))
        if rotation is not None:
            q, k = (rotate(part[None, None], rotation)[0, 0] for part in (q, k))
        for now in range(time):
            scores = torch.stack(
                [q[now] @ k[past] / math.sqrt(head_dim) for past in range(now + 1)]
            )
            mixed[row, now, columns] = scores.softmax(0) @ v[: now + 1]
    return attention.output(mixed)


def attention_and_input(qkv_bias: bool = False) -> tuple[CausalSelfAttention, Tensor]:
    torch.manual_seed(0)
    config = NetworkConfig(d_model=8, num_heads=2, bias=True, qkv_bias=qkv_bias)
    return CausalSelfAttention(config).double(), torch.randn(2, 5, 8, dtype=torch.float64)


@pytest.mark.parametrize("rotation", [None, ROTATION], ids=["plain", "rotary"])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_attention_equals_a_loop_over_its_definition(
    rotation: Tensor | None, qkv_bias: bool
) -> None:
    attention, x = attention_and_input(qkv_bias)
    torch.testing.assert_close(attention(x, rotation), attention_by_loops(attention, x, rotation))


def test_a_mask_replaces_the_causal_triangle() -> None:
    attention, x = attention_and_input()
    triangle = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(attention(x, mask=triangle), attention(x))
    # A position that attends only to itself sees no other.
    itself = attention(x, mask=torch.eye(5, dtype=torch.bool))
    for position in range(5):
        torch.testing.assert_close(itself[:, position], attention(x[:, [position]])[:, 0])


def test_a_cache_gets_rotated_keys_and_values_and_returns_those_to_attend_to() -> None:
    attention, x = attention_and_input()
    seen: list[Tensor] = []

    def remember(new: Tensor) -> Tensor:
        seen.append(new)
        return torch.cat(seen, dim=3)

    steps = [attention(x[:, [now]], ROTATION[:, [now]], None, remember) for now in range(5)]
    assert {tuple(new.shape) for new in seen} == {(2, 2, 2, 1, 4)}
    # One query, no mask: it attends to everything that the cache returns.
    torch.testing.assert_close(torch.cat(steps, dim=1), attention(x, ROTATION))


def test_a_padding_mask_shows_each_position_itself_and_the_real_ones_before_it() -> None:
    mask = causal_padding_mask(torch.tensor([[False, True, True, False]]))
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
