"""batches -> transformer: ids become logits.

Enters: ids `[batch, time]`. Leaves: logits `[batch, time, vocab]`; those at position t depend on
the ids up to t only. A decoder-only transformer (Vaswani et al. 2017; pre-norm as in Radford et al.
2019).
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.errors import UserError, check_axes
from shakespeare_lm.kernels.dropout import apply_dropout
from shakespeare_lm.model.attention import (
    AttentionInputs,
    CausalSelfAttention,
    causal_padding_mask,
)
from shakespeare_lm.model.config import NetworkConfig, Norm
from shakespeare_lm.model.feed_forward import FeedForward
from shakespeare_lm.model.initialisation import initialise_weights
from shakespeare_lm.model.positions import Positioned, apply_positions, position_table


class Block(nn.Module):
    """Attention, then feed-forward; the output of each is added to its input.

    The layer norm comes before each of the two ("pre") or after each sum ("post", as in the 2017
    paper).
    """

    def __init__(
        self, attention: CausalSelfAttention, feed_forward: FeedForward, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        d_model, bias = attention.output.out_features, attention.output.bias is not None
        self.attention = attention
        self.feed_forward = feed_forward
        self.attention_norm = nn.LayerNorm(d_model, bias=bias)
        self.feed_forward_norm = nn.LayerNorm(d_model, bias=bias)
        self.dropout = dropout
        self.norm_first = norm == "pre"

    def forward(self, x: Tensor, inputs: AttentionInputs = AttentionInputs()) -> Tensor:  # noqa: B008
        """Map `[batch, time, d_model]` to the same shape."""
        if self.norm_first:
            x = x + self._drop(self.attention(self.attention_norm(x), inputs))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self._drop(self.attention(x, inputs)))
        normed: Tensor = self.feed_forward_norm(x + self._drop(self.feed_forward(x)))
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        return apply_dropout(x, self.dropout, self.training)


class CausalTransformer(nn.Module):
    """Predicts the next character at each position from all characters up to it.

    Args:
        vocab_size: number of ids, including the padding symbol, which has the last one.
        config: everything else.

    Raises:
        UserError: if sinusoidal or rotary positions are asked for with an odd width.
    """

    position_table: Tensor

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.padding_id = vocab_size - 1
        self.embedding_scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.previous_embeddings = nn.ModuleList(
            nn.Embedding(vocab_size, config.d_model) for _ in range(config.previous_characters)
        )
        self._add_position_table()
        self.blocks = nn.ModuleList(self._new_block() for _ in range(config.num_layers))
        pre_norm = config.norm == "pre"
        self.final_norm = (
            nn.LayerNorm(config.d_model, bias=config.bias) if pre_norm else nn.Identity()
        )
        self.head = nn.Linear(config.d_model, vocab_size, bias=config.bias)
        if config.tied_head:
            self.head.weight = self.embedding.weight
        initialise_weights(self, config.num_layers, config.zero_init)
        if config.zero_init and not config.tied_head:
            nn.init.zeros_(self.head.weight)

    def _add_position_table(self) -> None:
        config = self.config
        table = position_table(
            config.positions, config.context_length, config.d_model, config.num_heads
        )
        if config.positions == "learned":
            self.learned_positions = nn.Parameter(table)
        else:
            # Not persistent: it follows from the options, so a checkpoint need not hold it.
            self.register_buffer("position_table", table, persistent=False)

    def _new_block(self) -> Block:
        config = self.config
        attention = CausalSelfAttention(
            config.d_model,
            config.num_heads,
            bias=config.bias,
            qkv_bias=config.qkv_bias,
            dropout=config.attention_dropout,
        )
        feed_forward = FeedForward(
            config.d_model, config.feedforward_width, config.activation, config.bias
        )
        return Block(attention, feed_forward, config.norm, config.dropout)

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`; for the rest see `hidden`."""
        logits: Tensor = self.head(self.hidden(ids, attention_mask, added))
        return logits

    def hidden(
        self, ids: Tensor, attention_mask: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """Map ids `[batch, time]`, `time <= context_length`, to `[batch, time, d_model]`, which the
        head reads.

        Args:
            ids: with padding on the right or none. The causal mask alone then keeps padding from
                influencing real positions, on the fastest attention path.
            attention_mask: `[batch, time]`, True for a real character; only needed for padding
                on the left. Logits at masked positions are meaningless.
            added: to the embeddings, `[batch, time, d_model]`.

        Raises:
            UserError: if there are more than `context_length` ids, or a tensor has other axes.
        """
        check_axes("ids", ids.shape, "batch", "time")
        time = ids.shape[1]
        if time > self.config.context_length:
            raise UserError(
                f"{time} characters are more than the context_length, {self.config.context_length}"
            )
        at: slice | Tensor = slice(time)
        mask = None
        if attention_mask is not None:
            check_axes("attention_mask", attention_mask.shape, "batch", "time")
            ids = ids.masked_fill(~attention_mask, self.padding_id)
            mask = causal_padding_mask(attention_mask)
            at = (attention_mask.long().cumsum(1) - 1).clamp(min=0)  # as without the padding
        x = self.embed(self.pad_left(ids))
        x, rotation, mask = self.locate(x if added is None else x + added, at, mask)
        x = apply_dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, AttentionInputs(rotation, mask))
        normed: Tensor = self.final_norm(x)
        return normed

    def pad_left(self, ids: Tensor) -> Tensor:
        """Put the padding symbol before the first character, as its `previous_characters`."""
        return F.pad(ids, (self.config.previous_characters, 0), value=self.padding_id)

    def embed(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, previous_characters + time]` to embeddings `[batch, time, d_model]`.

        The embeddings of the preceding characters are added at each position.
        """
        count = self.config.previous_characters
        time = ids.shape[1] - count
        x: Tensor = self.embedding(ids[:, count:])
        for distance, embedding in enumerate(self.previous_embeddings, start=1):
            x = x + embedding(ids[:, count - distance :][:, :time])
        return x * self.embedding_scale

    def locate(self, x: Tensor, at: slice | Tensor, mask: Tensor | None) -> Positioned:
        """Add the position vectors of the positions `at`, or return their rotation."""
        kind = self.config.positions
        table = self.learned_positions if kind == "learned" else self.position_table
        return apply_positions(kind, table, x, at, mask)
