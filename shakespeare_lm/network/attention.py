"""Inside the transformer: causal self-attention, where each position gathers information from
itself and the positions before it.

Enters: `[batch, time, d_model]`. Leaves: the same shape (Vaswani et al. 2017, "Attention Is All You
Need", section 3.2).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.network.positions import rotate
from shakespeare_lm.network.residual import ResidualProjection

# Takes the new keys and values, stacked as `[2, batch, heads, time, head_dim]`, and returns all
# keys and values to attend to. Completion stores them in a cache; training does without.
CacheUpdate = Callable[[Tensor], Tensor]


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
        one_query = q.shape[-2] == 1
        if v.dtype == torch.bfloat16 and v.device.type == "cpu" and not one_query:
            # The backward pass of CPU attention is six times as slow in bfloat16 (torch 2.13).
            with torch.autocast("cpu", enabled=False):
                q, k, v = q.float(), k.float(), v.float()
                return self._mix(q, k, v, mask, one_query).bfloat16()
        return self._mix(q, k, v, mask, one_query)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, one_query: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        causal = mask is None and not one_query
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )


def causal_padding_mask(attention_mask: Tensor) -> Tensor:
    """Map `[batch, time]` to `[batch, 1, time, time]`: each position attends to itself and to the
    real positions before it.

    Attending to itself always keeps the softmax of a row without real positions from being 0 / 0.
    """
    time = attention_mask.shape[1]
    triangle = torch.ones(time, time, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(time, dtype=torch.bool, device=attention_mask.device)
    return ((triangle & attention_mask[:, None, :]) | itself)[:, None]
