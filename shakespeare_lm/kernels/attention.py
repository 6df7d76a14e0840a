"""Attention, softmax(q k^T / sqrt(head_dim)) v, in the form that is fastest on this hardware."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shakespeare_lm.kernels.dropout import apply_dropout
from shakespeare_lm.kernels.plain import PLAIN

# Longer attention on a CPU goes through torch's fused kernel, in float32: it keeps no
# `[time, time]` weights (unless there is dropout), which would be slow to read and large here.
_LONGEST_PRODUCTS = 1024
# Fewer make small products, more compute scores that the causal triangle hides.
_QUERIES_AT_ONCE = 128


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Return the attention of each query to the values, `[batch, heads, queries, head_dim]`.

    Args:
        q: queries, `[batch, heads, queries, head_dim]`.
        k: keys, `[batch, heads, keys, head_dim]`.
        v: values, as the keys.
        mask: True where a query may attend to a key, `[batch, 1, queries, keys]`; None is the
            causal triangle, or everything if there is one query.
        dropout: fraction of the weights to be zeroed.
    """
    time = q.shape[-2]
    slow = time > 1 and v.device.type == "cpu" and (dropout or v.dtype == torch.bfloat16)
    if not slow or "attention" in PLAIN:
        return _fused(q, k, v, mask, dropout)
    with torch.autocast("cpu", enabled=False):
        if time <= _LONGEST_PRODUCTS:
            return _attend_by_products(q, k, v, mask, dropout)
        dtype = torch.promote_types(q.dtype, torch.float32)  # float64 stays
        return _fused(q.to(dtype), k.to(dtype), v.to(dtype), mask, dropout).to(q.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    causal = mask is None and q.shape[-2] > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal
    )


def _attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """The backward pass of torch's fused attention is six times as slow in bfloat16 as in float32
    on a CPU (torch 2.13), and in float32 about twice as slow as these products (time 128 to 512).
    With dropout torch has no fused attention on a CPU, and computes these products for all keys.
    """
    time = q.shape[-2]
    if mask is not None:
        return _weighted_values(q, k, v, mask, dropout)
    triangle = torch.ones(time, time, dtype=torch.bool).tril()
    parts = []
    for start in range(0, time, _QUERIES_AT_ONCE):
        end = start + _QUERIES_AT_ONCE  # none of these queries may attend to later keys
        keys, values = k[:, :, :end], v[:, :, :end]
        visible = triangle[start:end, :end]
        parts.append(_weighted_values(q[:, :, start:end], keys, values, visible, dropout))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _weighted_values(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, dropout: float) -> Tensor:
    batch, heads, _, head_dim = q.shape
    bias = torch.zeros(visible.shape, dtype=q.dtype).masked_fill(~visible, -math.inf)
    bias = bias.expand(batch, heads, -1, -1).flatten(0, 1)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(bias, q, k.mT, alpha=1 / math.sqrt(head_dim))
    weights = apply_dropout(scores.softmax(dim=-1), dropout, training=True)
    return (weights @ v).unflatten(0, (batch, heads))
