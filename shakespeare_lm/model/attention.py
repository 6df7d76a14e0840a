"""Inside the transformer: causal self-attention, where each position gathers information from
itself and the positions before it.

Enters: `[batch, time, d_model]`. Leaves: the same shape (Vaswani et al. 2017, "Attention Is All You
Need", section 3.2).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.kernels.dropout import apply_dropout
from shakespeare_lm.model.initialisation import ResidualProjection
from shakespeare_lm.model.positions import rotate

# Takes the new keys and values, stacked as `[2, batch, heads, time, head_dim]`, and returns all
# keys and values to attend to. Completion stores them in a cache; training does without.
CacheUpdate = Callable[[Tensor], Tensor]

# Longer attention on a CPU goes through torch's fused kernel, in float32: it keeps no
# `[time, time]` weights (unless there is dropout), which would be slow to read and large here.
_LONGEST_PRODUCTS = 1024
# Fewer make small products, more compute scores that the causal triangle hides.
_QUERIES_AT_ONCE = 128


class AttentionInputs(NamedTuple):
    """What an attention layer needs besides its input.

    Args:
        rotation: rows of `rotary_table` for these positions, if positions are rotary.
        mask: True where a query (row) may attend to a key (column), `[batch, 1, queries, keys]`;
            None is the causal triangle, or everything if there is one query.
        update_cache: adds new keys and values to those of earlier calls.
    """

    rotation: Tensor | None = None
    mask: Tensor | None = None
    update_cache: CacheUpdate | None = None


class CausalSelfAttention(nn.Module):
    """Multi-head attention of every position to itself and the positions before it."""

    def __init__(
        self, d_model: int, num_heads: int, *, bias: bool, qkv_bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=qkv_bias)
        self.output = ResidualProjection(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, inputs: AttentionInputs = AttentionInputs()) -> Tensor:  # noqa: B008
        """Map `[batch, time, d_model]` to the same shape."""
        rotation, mask, update_cache = inputs
        heads = self.project(x, rotation)
        k, v = heads[1:] if update_cache is None else update_cache(heads[1:])
        mixed = self._attend(heads[0], k, v, mask)
        projected: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return projected

    def project(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Return queries, keys and values, `[3, batch, heads, time, head_dim]`."""
        # From [batch, time, 3 * d_model].
        heads: Tensor = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1))
        heads = heads.permute(2, 0, 3, 1, 4)
        if rotation is not None:
            heads = torch.cat((rotate(heads[:2], rotation), heads[2:]))
        return heads

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        time = q.shape[-2]
        causal = mask is None and time > 1
        if time > 1 and v.device.type == "cpu" and (dropout or v.dtype == torch.bfloat16):
            attend = _attend_by_products if time <= _LONGEST_PRODUCTS else _attend_in_float32
            with torch.autocast("cpu", enabled=False):
                return attend(q, k, v, mask, dropout)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )


def _attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v.

    The backward pass of torch's fused attention is six times as slow in bfloat16 as in float32
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


def _attend_in_float32(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    dtype = torch.promote_types(q.dtype, torch.float32)  # float64 stays
    mixed = F.scaled_dot_product_attention(
        q.to(dtype), k.to(dtype), v.to(dtype), attn_mask=mask, dropout_p=dropout,
        is_causal=mask is None,
    )  # fmt: skip
    return mixed.to(q.dtype)


def causal_padding_mask(attention_mask: Tensor) -> Tensor:
    """Map `[batch, time]` to `[batch, 1, time, time]`: each position attends to itself and to the
    real positions before it.

    Attending to itself always keeps the softmax of a row without real positions from being 0 / 0.
    """
    time = attention_mask.shape[1]
    triangle = torch.ones(time, time, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(time, dtype=torch.bool, device=attention_mask.device)
    return ((triangle & attention_mask[:, None, :]) | itself)[:, None]
