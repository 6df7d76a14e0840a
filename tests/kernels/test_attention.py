"""Attention in the form of each device: exact up to rounding, whatever its pieces are."""

import pytest
import torch
from torch import Tensor, nn

from shakespeare_lm.kernels import attention
from shakespeare_lm.kernels.attention import attend
from shakespeare_lm.model.attention import causal_padding_mask


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return what torch computes in float64."""
    return nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=mask, is_causal=mask is None
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("longest_products", "queries_at_once"), [(8, 9), (9, 9), (9, 8), (9, 4), (9, 3), (9, 1)]
)
def test_attention_in_bfloat16_on_a_cpu_is_exact_up_to_rounding(
    masked: bool, longest_products: int, queries_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_LONGEST_PRODUCTS", longest_products)
    monkeypatch.setattr(attention, "_QUERIES_AT_ONCE", queries_at_once)
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 9, 4).bfloat16().requires_grad_() for _ in range(3))
    mask = causal_padding_mask(torch.arange(9) > torch.tensor([[0], [2], [3]])) if masked else None
    mixed, expected = attend(q, k, v, mask, 0.0), exact(q, k, v, mask)
    assert mixed.dtype == torch.bfloat16
    # Three products and a softmax of numbers with 8 binary digits.
    torch.testing.assert_close(mixed.double(), expected, rtol=0.02, atol=0.02)
    towards = torch.randn(mixed.shape)
    for x, y in zip(
        torch.autograd.grad((mixed * towards).sum(), (q, k, v)),
        torch.autograd.grad((expected * towards).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("longest_products", [8, 9])
def test_attention_weights_are_dropped(
    dtype: torch.dtype, longest_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_LONGEST_PRODUCTS", longest_products)
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 9, 4, dtype=dtype)
    ones = torch.ones(1, 2, 9, 4, dtype=dtype)
    assert not torch.equal(attend(q, k, ones, None, 0.5), attend(q, k, ones, None, 0.5))
    assert torch.equal(attend(q, k, ones, None, 0.0), attend(q, k, ones, None, 0.0))
    # The first query has one weight, 1: it is zeroed, or doubled.
    drawn = {attend(q, k, ones, None, 0.5)[0, 0, 0, 0].item() for _ in range(40)}
    assert drawn == {0.0, 2.0}


def test_one_query_attends_to_everything() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 4)
    everything = torch.ones(1, 7, dtype=torch.bool)
    torch.testing.assert_close(attend(q, k, v, None, 0.0).double(), exact(q, k, v, everything))
