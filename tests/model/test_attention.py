"""Attention: its definition, its masks, and what a cache gets to see."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from shakespeare_lm.model.attention import (
    AttentionInputs,
    CausalSelfAttention,
    causal_padding_mask,
)
from shakespeare_lm.model.positions import rotary_table, rotate


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


def small_attention(qkv_bias: bool = False, dropout: float = 0.0) -> CausalSelfAttention:
    torch.manual_seed(0)
    return CausalSelfAttention(8, 2, bias=True, qkv_bias=qkv_bias, dropout=dropout).double()


def embeddings(batch: int = 2, time: int = 5) -> Tensor:
    return torch.randn(batch, time, 8, dtype=torch.float64)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_attention_equals_a_loop_over_its_definition(rotary: bool, qkv_bias: bool) -> None:
    attention, x = small_attention(qkv_bias), embeddings()
    rotation = rotary_table(5, 4).double() if rotary else None
    torch.testing.assert_close(
        attention(x, AttentionInputs(rotation)), attention_by_loops(attention, x, rotation)
    )


def test_a_mask_replaces_the_causal_triangle() -> None:
    attention, x = small_attention(), embeddings()
    triangle = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(attention(x, AttentionInputs(mask=triangle)), attention(x))
    # A position that attends only to itself sees no other.
    itself = attention(x, AttentionInputs(mask=torch.eye(5, dtype=torch.bool)))
    for position in range(5):
        torch.testing.assert_close(itself[:, position], attention(x[:, [position]])[:, 0])


def test_a_cache_gets_rotated_keys_and_values_and_returns_those_to_attend_to() -> None:
    attention, x = small_attention(), embeddings()
    rotation = rotary_table(5, 4).double()
    seen: list[Tensor] = []

    def remember(new: Tensor) -> Tensor:
        seen.append(new)
        return torch.cat(seen, dim=3)

    expected = attention(x, AttentionInputs(rotation))
    steps = [
        attention(x[:, [now]], AttentionInputs(rotation[:, [now]], None, remember))
        for now in range(5)
    ]
    assert {tuple(new.shape) for new in seen} == {(2, 2, 2, 1, 4)}
    # One query, no mask: it attends to everything that the cache returns.
    torch.testing.assert_close(torch.cat(steps, dim=1), expected)


def test_attention_weights_are_dropped_in_training_only() -> None:
    attention, x = small_attention(dropout=0.5), embeddings()
    assert not torch.equal(attention(x), attention(x))
    torch.testing.assert_close(attention.eval()(x), small_attention().eval()(x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("longest_products", "queries_at_once"), [(8, 9), (9, 9), (9, 8), (9, 4), (9, 3), (9, 1)]
)
def test_attention_in_bfloat16_on_a_cpu_is_exact_up_to_rounding(
    masked: bool, longest_products: int, queries_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shakespeare_lm.model.attention._LONGEST_PRODUCTS", longest_products)
    monkeypatch.setattr("shakespeare_lm.model.attention._QUERIES_AT_ONCE", queries_at_once)
    torch.manual_seed(0)
    attention = CausalSelfAttention(8, 2, bias=False, qkv_bias=False, dropout=0.0)
    given = [torch.randn(3, 2, 9, 4).bfloat16().requires_grad_() for _ in range(3)]
    mask = causal_padding_mask(torch.arange(9) > torch.tensor([[0], [2], [3]])) if masked else None
    mixed = attention._attend(*given, mask)
    exact = nn.functional.scaled_dot_product_attention(
        *(x.double() for x in given), attn_mask=mask, is_causal=not masked
    )
    # Three products and a softmax of numbers with 8 binary digits.
    torch.testing.assert_close(mixed.double(), exact, rtol=0.02, atol=0.02)
    towards = torch.randn(mixed.shape)
    for x, y in zip(
        torch.autograd.grad((mixed * towards).sum(), given),
        torch.autograd.grad((exact * towards).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("longest_products", [8, 9])
def test_attention_weights_are_dropped_in_bfloat16_too(
    longest_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shakespeare_lm.model.attention._LONGEST_PRODUCTS", longest_products)
    attention = CausalSelfAttention(8, 2, bias=False, qkv_bias=False, dropout=0.5).train()
    q, k, v = torch.randn(3, 1, 2, 9, 4).bfloat16()
    assert not torch.equal(attention._attend(q, k, v, None), attention._attend(q, k, v, None))
    attention.eval()
    assert torch.equal(attention._attend(q, k, v, None), attention._attend(q, k, v, None))


def test_a_padding_mask_shows_each_position_itself_and_the_real_ones_before_it() -> None:
    mask = causal_padding_mask(torch.tensor([[False, True, True, False]]))
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
