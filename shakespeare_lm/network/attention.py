"""Inside the transformer: each character gathers what it needs from itself and those before it.

Enters: `[batch, time, d_model]`. Leaves: the same shape (Vaswani et al. 2017, "Attention Is All
You Need", section 3.2).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.network.positions import rotate

# Takes new keys and values, stacked as `[2, batch, heads, time, head_dim]`, keeps them, and returns
# all those that are to be looked at.
Remember = Callable[[Tensor], Tensor]


class CausalSelfAttention(nn.Module):
    """Every position looks at itself and at those before it."""

    def __init__(
        self, d_model: int, num_heads: int, *, bias: bool, qkv_bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=qkv_bias)
        self.output = nn.Linear(d_model, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None = None,
        mask: Tensor | None = None,
        remember: Remember | None = None,
    ) -> Tensor:
        """Map `[batch, time, d_model]` to the same shape.

        `rotation` holds the rows of `rotary_table` for these positions; `mask` is True where a
        position (row) may look at another (column), and None is the causal triangle, or everything
        if there is one new position alone; `remember` is a cache's, for completion.
        """
        # [batch, time, 3 * d_model] -> [3, batch, heads, time, head_dim]
        heads = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1))
        heads = heads.permute(2, 0, 3, 1, 4)
        if rotation is not None:
            heads = torch.cat((rotate(heads[:2], rotation), heads[2:]))
        k, v = heads[1:] if remember is None else remember(heads[1:])
        mixed = self._attend(heads[0], k, v, mask)
        projected: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return projected

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        one_query = q.shape[-2] == 1
        if v.dtype == torch.bfloat16 and v.device.type == "cpu" and not one_query:
            # The backward pass of torch 2.13's CPU attention takes six times as long in bfloat16.
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


def causal_and_real(attention_mask: Tensor) -> Tensor:
    """Map `[batch, time]` to `[batch, 1, time, time]`: a position looks at real ones up to itself,
    and at itself always.

    The latter keeps the softmax of a row without any real position from being 0 / 0.
    """
    time = attention_mask.shape[1]
    triangle = torch.ones(time, time, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(time, dtype=torch.bool, device=attention_mask.device)
    return ((triangle & attention_mask[:, None, :]) | itself)[:, None]
