"""Attention in the form of each device: exact up to rounding, whatever its pieces are."""

from unittest.mock import Mock

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
    "change",
    [
        *({"_QUERIES_AT_ONCE": count} for count in (9, 8, 4, 3, 1)),
        {"_LONGEST_PRODUCTS": 8},
        {"PLAIN": {"attention"}},
    ],
    ids=str,
)
def test_attention_in_bfloat16_on_a_cpu_is_exact_up_to_rounding(
    masked: bool, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    products = Mock(wraps=attention._attend_by_products)
    for name, value in {**change, "_attend_by_products": products}.items():
        monkeypatch.setattr(attention, name, value)
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 9, 4).bfloat16().requires_grad_() for _ in range(3))
    mask = causal_padding_mask(torch.arange(9) > torch.tensor([[0], [2], [3]])) if masked else None
    mixed, expected = attend(q, k, v, mask, 0.0), exact(q, k, v, mask)
    assert mixed.dtype == torch.bfloat16
    assert products.called is ("_QUERIES_AT_ONCE" in change)
    # Three products and a softmax of numbers with 8 binary digits.
    torch.testing.assert_close(mixed.double(), expected, rtol=0.02, atol=0.02)
    towards = torch.randn(mixed.shape)
    found, gradients = (
        torch.autograd.grad((result * towards).sum(), (q, k, v)) for result in (mixed, expected)
    )
    torch.testing.assert_close(found, gradients, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("longest_products", [8, 9])
def test_attention_weights_are_dropped(
    dtype: torch.dtype, longest_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_LONGEST_PRODUCTS", longest_products)
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 9, 4, dtype=dtype)
    ones = torch.ones(1, 2, 9, 4, dtype=dtype)
    # The first query has one weight, 1: it is zeroed, or doubled.
    drawn = {attend(q, k, ones, None, 0.5)[0, 0, 0, 0].item() for _ in range(40)}
    assert drawn == {0.0, 2.0}
