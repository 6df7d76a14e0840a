"""Inside the transformer: causal self-attention, where each position gathers information from
itself and the positions before it (Vaswani et al. 2017, "Attention Is All You Need", section 3.2).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from shakespeare_lm.kernels.attention import attend
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.initialisation import ResidualProjection
from shakespeare_lm.model.positions import rotate

# Takes new keys and values, `[2, batch, heads, time, head_dim]`, and returns all to attend to.
Extend = Callable[[Tensor], Tensor]


class CausalSelfAttention(nn.Module):
    """Multi-head attention of every position to itself and the positions before it."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.attention_dropout
        d_model = config.d_model
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=config.qkv_bias)
        self.output = ResidualProjection(d_model, d_model, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None = None,
        mask: Tensor | None = None,
        extend: Extend | None = None,
    ) -> Tensor:
        """Map `[batch, time, d_model]` to the same shape.

        Args:
            x: the residual stream, normed.
            rotation: rows of `rotary_table` for these positions, if positions are rotary.
            mask: True where a query (row) may attend to a key (column), `[batch, 1, queries,
                keys]`; None is the causal triangle, or everything if there is one query.
            extend: adds the keys and values of earlier characters.
        """
        heads = self.project(x, rotation)
        k, v = heads[1:] if extend is None else extend(heads[1:])
        # In plain products, with the mask or the causal triangle:
        #   weights = (heads[0] @ k.mT / sqrt(head_dim)).masked_fill(~mask, -inf).softmax(-1)
        #   mixed = dropout(weights) @ v
        mixed = attend(heads[0], k, v, mask, self.dropout if self.training else 0.0)
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


def causal_padding_mask(attention_mask: Tensor) -> Tensor:
    """Map `[batch, time]` to `[batch, 1, time, time]`: each position attends to itself and to the
    real positions before it.

    Attending to itself always keeps the softmax of a row without real positions from being 0 / 0.
    """
    time = attention_mask.shape[1]
    triangle = torch.ones(time, time, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(time, dtype=torch.bool, device=attention_mask.device)
    return ((triangle & attention_mask[:, None, :]) | itself)[:, None]
