"""batches -> transformer: ids become logits.

Enters: ids `[batch, time]`. Leaves: logits `[batch, time, vocab]`, those at position t computed
from the ids up to t alone. A decoder-only transformer (Vaswani et al. 2017; pre-norm as in Radford
et al. 2019).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.errors import UserError, check_at_least_1
from shakespeare_lm.positions import rotary_table, rotate, sinusoidal_table

Positions = Literal["sinusoidal", "learned", "rotary"]
Norm = Literal["pre", "post"]
Activation = Literal["gelu", "relu"]


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
        self, x: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Map `[batch, time, d_model]` to the same shape.

        `rotation` is `rotary_table`'s; `mask` is True where a position (row) may look at another
        (column), and None is the causal triangle.
        """
        # [batch, time, 3 * d_model] -> three of [batch, heads, time, head_dim]
        heads = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        mixed = self._attend(q, k, v, mask)
        projected: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return projected

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        dtype = v.dtype
        if v.device.type == "cpu" and dtype == torch.bfloat16:
            # The backward pass of torch 2.13's CPU attention takes six times as long in bfloat16.
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
            )
        return mixed.to(dtype)


class FeedForward(nn.Sequential):
    """Every position thinks by itself: out to `d_feedforward` and back."""

    def __init__(
        self, d_model: int, d_feedforward: int, activation: Activation, bias: bool
    ) -> None:
        super().__init__(
            nn.Linear(d_model, d_feedforward, bias=bias),
            nn.GELU() if activation == "gelu" else nn.ReLU(),
            nn.Linear(d_feedforward, d_model, bias=bias),
        )


class Block(nn.Module):
    """Attention, then feed-forward, each added to what came in.

    The norm comes before each of the two ("pre") or after each sum ("post", as in the 2017 paper).
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
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm == "pre"

    def forward(
        self, x: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Map `[batch, time, d_model]` to the same shape."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), rotation, mask))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, rotation, mask)))
        normed: Tensor = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return normed


class CausalTransformer(nn.Module):
    """Predicts, at each position, the next character from all before it.

    Args:
        vocab_size: number of ids, the padding symbol included.
        context_length: the longest sequence it takes, in characters.
        num_layers: blocks one after the other.
        num_heads: attention heads per block; must divide `d_model`.
        d_model: width of the residual stream.
        d_feedforward: inner width of the feed-forward layers; 4 * d_model if not given.
        positions: how it knows where a character stands.
        norm: layer norms before ("pre", with one more before the head) or after ("post") each
            sub-layer.
        activation: of the feed-forward layers.
        bias: whether linear layers and norms have biases.
        qkv_bias: the same for the projection to queries, keys and values.
        tied_head: whether the head uses the embedding's weights.
        scale_embedding: whether embeddings are multiplied by sqrt(d_model).
        previous_characters: how many characters before it each position's embedding tells of, by
            one more table for each distance: what is near need not be found by attention.
        zero_init: whether the projections that add to the residual stream, and an untied head,
            start at zero, so that every block starts as the identity.
        dropout: fraction of the embeddings, and of each sub-layer's output, zeroed in training.
        attention_dropout: fraction of the attention weights zeroed in training. On a CPU this
            leaves the fast attention kernel and costs several times the time.

    Raises:
        UserError: for sizes or fractions that make no transformer.
    """

    positions_table: Tensor

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_layers: int = 3,
        num_heads: int = 5,
        d_model: int = 160,
        d_feedforward: int | None = None,
        positions: Positions = "sinusoidal",
        norm: Norm = "pre",
        activation: Activation = "gelu",
        bias: bool = False,
        qkv_bias: bool = False,
        tied_head: bool = False,
        scale_embedding: bool = True,
        previous_characters: int = 4,
        zero_init: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        d_feedforward = 4 * d_model if d_feedforward is None else d_feedforward
        check_at_least_1(
            context_length=context_length,
            num_layers=num_layers,
            num_heads=num_heads,
            d_model=d_model,
            d_feedforward=d_feedforward,
        )
        _check_heads(d_model, num_heads)
        _check_previous(previous_characters)
        _check_fractions(dropout=dropout, attention_dropout=attention_dropout)
        self.padding_id = vocab_size - 1
        self.context_length = context_length
        self.positions = positions
        self.embedding_scale = math.sqrt(d_model) if scale_embedding else 1.0
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.previous_embeddings = nn.ModuleList(
            nn.Embedding(vocab_size, d_model) for _ in range(previous_characters)
        )
        self._add_positions(context_length, d_model, num_heads)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                CausalSelfAttention(
                    d_model, num_heads, bias=bias, qkv_bias=qkv_bias, dropout=attention_dropout
                ),
                FeedForward(d_model, d_feedforward, activation, bias),
                norm,
                dropout,
            )
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(d_model, bias=bias) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(d_model, vocab_size, bias=bias)
        if tied_head:
            self.head.weight = self.embedding.weight
        self._initialise(zero_init)

    def _add_positions(self, context_length: int, d_model: int, num_heads: int) -> None:
        if self.positions == "learned":
            self.learned_positions = nn.Parameter(torch.empty(context_length, d_model))
            return
        rotary = self.positions == "rotary"
        table = (
            rotary_table(context_length, d_model // num_heads)
            if rotary
            else sinusoidal_table(context_length, d_model)
        )
        # Not persistent: the table follows from the sizes, a checkpoint need not carry it.
        self.register_buffer("positions_table", table, persistent=False)

    def _initialise(self, zero_init: bool) -> None:
        """GPT-2's scheme (Radford et al. 2019, 2.3): small normals, smaller where blocks add up.

        With `zero_init` these, and an untied head, are zero instead (as in Zhang et al. 2019,
        "Fixup").
        """
        adding = 0.0 if zero_init else 0.02 / math.sqrt(2 * len(self.blocks))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                adds_up = name.endswith(("attention.output.weight", "feed_forward.2.weight"))
                nn.init.normal_(parameter, std=adding if adds_up else 0.02)
        if zero_init and self.head.weight is not self.embedding.weight:
            nn.init.zeros_(self.head.weight)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map ids `[batch, time]`, `time <= context_length`, to logits `[batch, time, vocab]`.

        Args:
            ids: padded on the right, or not at all, and nothing more is needed: the causal triangle
                alone keeps every real position from seeing padding, on the fastest attention path.
            attention_mask: `[batch, time]`, True for a real character: for padding anywhere else.
                Logits at masked positions mean nothing.
        """
        time = ids.shape[1]
        if time > self.context_length:
            raise UserError(
                f"{time} characters are more than the context_length, {self.context_length}"
            )
        if attention_mask is not None:
            ids = ids.masked_fill(~attention_mask, self.padding_id)
        x = self._embed(ids) * self.embedding_scale
        rotation = None
        if self.positions == "rotary":
            rotation = self.positions_table
        else:
            learned = self.positions == "learned"
            table = self.learned_positions if learned else self.positions_table
            x = x + table[:time]
        x = self.dropout(x)
        mask = None if attention_mask is None else _causal_and_real(attention_mask)
        for block in self.blocks:
            x = block(x, rotation, mask)
        logits: Tensor = self.head(self.final_norm(x))
        return logits

    def _embed(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, time]` to `[batch, time, d_model]`: each character and those before it.

        Before the first character there is padding.
        """
        time, count = ids.shape[1], len(self.previous_embeddings)
        x: Tensor = self.embedding(ids)
        padded = F.pad(ids, (count, 0), value=self.padding_id)
        for distance, embedding in enumerate(self.previous_embeddings, start=1):
            x = x + embedding(padded[:, count - distance :][:, :time])
        return x


def _causal_and_real(attention_mask: Tensor) -> Tensor:
    """Return `[batch, 1, time, time]`: a position looks at real ones up to itself, and at itself
    always.

    The latter keeps the softmax of a row without any real position from being 0 / 0.
    """
    time = attention_mask.shape[1]
    triangle = torch.ones(time, time, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(time, dtype=torch.bool, device=attention_mask.device)
    return ((triangle & attention_mask[:, None, :]) | itself)[:, None]


def _check_heads(d_model: int, num_heads: int) -> None:
    if d_model % num_heads:
        raise UserError(
            f"d_model is {d_model} and num_heads {num_heads}: d_model must be a multiple of "
            "num_heads"
        )


def _check_previous(previous_characters: int) -> None:
    if previous_characters < 0:
        raise UserError(f"previous_characters is {previous_characters}: accepted is 0 or more")


def _check_fractions(**fractions: float) -> None:
    for name, fraction in fractions.items():
        if not 0.0 <= fraction < 1.0:
            raise UserError(f"{name} is {fraction}: accepted is 0 or more and less than 1")
