"""ids -> logits: a decoder-only transformer (Vaswani et al. 2017; pre-norm as in Radford et al.
2019). The logits at a position depend on the ids up to it only.
"""

import math
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.kernels.dropout import apply_dropout
from shakespeare_lm.model.attention import CausalSelfAttention, Extend, causal_padding_mask
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.feed_forward import FeedForward
from shakespeare_lm.model.initialisation import initialise_weights
from shakespeare_lm.model.network import Network, Past
from shakespeare_lm.model.positions import apply_positions, position_table


class Block(nn.Module):
    """Attention, then feed-forward; the output of each is added to its input.

    The layer norm comes before each of the two ("pre") or after each sum ("post", as in the 2017
    paper).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.attention = CausalSelfAttention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.dropout, self.norm_first = config.dropout, config.norm == "pre"

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None = None,
        mask: Tensor | None = None,
        extend: Extend | None = None,
    ) -> Tensor:
        """Map `[batch, time, d_model]` to the same shape; the rest is for attention."""
        if self.norm_first:
            x = x + self._drop(self.attention(self.attention_norm(x), rotation, mask, extend))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self._drop(self.attention(x, rotation, mask, extend)))
        normed: Tensor = self.feed_forward_norm(x + self._drop(self.feed_forward(x)))
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        return apply_dropout(x, self.dropout, self.training)


class CausalTransformer(Network):
    """Predicts the next character at each position from all characters up to it.

    Raises:
        UserError: if sinusoidal or rotary positions are asked for with an odd width.
    """

    reads_past = True
    position_table: Tensor

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.embedding_scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.lookback = config.previous_characters
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.previous_embeddings = nn.ModuleList(
            nn.Embedding(vocab_size, config.d_model) for _ in range(config.previous_characters)
        )
        self._add_position_table()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm: nn.Module = nn.Identity()
        if config.norm == "pre":
            self.final_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.head = nn.Linear(config.d_model, vocab_size, bias=config.bias)
        if config.tied_head:
            self.head.weight = self.embedding.weight
        initialise_weights(self, config.num_layers, config.zero_init)
        if config.zero_init and not config.tied_head:
            nn.init.zeros_(self.head.weight)

    def _add_position_table(self) -> None:
        kind, length = self.config.positions, self.config.context_length
        table = position_table(kind, length, self.config.d_model, self.config.num_heads)
        if kind == "learned":
            self.learned_positions = nn.Parameter(table)
        else:
            # Not persistent: it follows from the options, so a checkpoint need not hold it.
            self.register_buffer("position_table", table, persistent=False)

    def embed(self, ids: Tensor, past: Past | None = None) -> Tensor:
        """Map ids `[batch, time]` to embeddings `[batch, time, d_model]`, to which those of the
        preceding characters are added.
        """
        count, time = self.lookback, ids.shape[1]
        x: Tensor = self.embedding(ids)
        if count and past is None:
            ids = F.pad(ids, (count, 0), value=self.padding_id)
        elif count and past is not None:
            ids = past.recent[:, -count - time :]
        for distance, embedding in enumerate(self.previous_embeddings, start=1):
            x = x + embedding(ids[:, count - distance :][:, :time])
        return x * self.embedding_scale

    def hidden(
        self, x: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        time, most = x.shape[1], self.config.context_length
        if time > most:
            raise UserError(f"{time} characters are more than the context_length, {most}")
        positions: slice | Tensor = slice(time)
        mask = None
        if past is not None:
            positions, mask = past.positions, past.mask
        elif attention_mask is not None:
            positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)  # as without the padding
            mask = causal_padding_mask(attention_mask)
        kind = self.config.positions
        table = self.learned_positions if kind == "learned" else self.position_table
        x, rotation = apply_positions(kind, table, x, positions)
        x = apply_dropout(x, self.config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            extend = None if past is None else partial(past.extend, layer)
            x = block(x, rotation, mask, extend)
        normed: Tensor = self.final_norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden)
        return logits
