"""batches -> transformer: ids become logits.

Enters: ids `[batch, time]`. Leaves: logits `[batch, time, vocab]`, those at position t computed
from the ids up to t alone. A decoder-only transformer (Vaswani et al. 2017; pre-norm as in Radford
et al. 2019).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.errors import UserError, check_at_least_1
from shakespeare_lm.network.attention import CausalSelfAttention, Remember, causal_and_real
from shakespeare_lm.network.cache import CacheShape, KeyValueCache
from shakespeare_lm.network.positions import rotary_table, sinusoidal_table

Positions = Literal["sinusoidal", "learned", "rotary"]
Norm = Literal["pre", "post"]
Activation = Literal["gelu", "relu"]

# The table of positions is no part of a checkpoint, so that no file's size bounds its length.
_MAX_CONTEXT = 1 << 16


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
        self.dropout = dropout
        self.norm_first = norm == "pre"

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None = None,
        mask: Tensor | None = None,
        remember: Remember | None = None,
    ) -> Tensor:
        """Map `[batch, time, d_model]` to the same shape; the rest is for the attention."""
        if self.norm_first:
            x = x + self._drop(self.attention(self.attention_norm(x), rotation, mask, remember))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self._drop(self.attention(x, rotation, mask, remember)))
        normed: Tensor = self.feed_forward_norm(x + self._drop(self.feed_forward(x)))
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        # Even without effect, dropout would be a tenth of the time that a character takes.
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


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
        _check_context(context_length)
        _check_previous(previous_characters)
        _check_fractions(dropout=dropout, attention_dropout=attention_dropout)
        self.padding_id = vocab_size - 1
        self.context_length = context_length
        self.cache_shape = CacheShape(
            num_layers,
            num_heads,
            context_length,
            d_model // num_heads,
            previous_characters,
            self.padding_id,
        )
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
        self._compiled: Callable[[KeyValueCache, Tensor], Tensor] | None = None

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
        x, rotation = self._locate(self._embed(self._with_padding_before(ids)), slice(time))
        x = self.dropout(x)
        mask = None if attention_mask is None else causal_and_real(attention_mask)
        for block in self.blocks:
            x = block(x, rotation, mask)
        logits: Tensor = self.head(self.final_norm(x))
        return logits

    def new_cache(self, batch: int, fixed_shape: bool = False) -> KeyValueCache:
        """Return the memory for `batch` windows, for `prefill` and `step`."""
        return KeyValueCache(batch, self.cache_shape, self.head.weight, fixed_shape)

    def prefill(self, cache: KeyValueCache, rows: Tensor, windows: Sequence[Sequence[int]]) -> None:
        """Let these rows of the cache hold these windows, and nothing else; in evaluation mode.

        Equal windows are read once.
        """
        ids = cache.begin(rows, windows)
        if not ids.numel():
            return
        ids, source = ids.unique(dim=0, return_inverse=True)
        x = self._embed(self._with_padding_before(ids))
        x, rotation = self._locate(x, slice(ids.shape[1]))
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, remember=cache.store(layer, rows, source))

    def step(self, cache: KeyValueCache, ids: Tensor) -> Tensor:
        """Let every window of the cache grow by an id `[batch]`; in evaluation mode.

        Returns:
            The logits `[batch, vocab]` of what comes next: those that `forward` has at the end of
            the grown window.
        """
        advance = self._compiled if cache.fixed_shape and self._compiled else self._advance
        return advance(cache, cache.append(ids))

    def compile_step(self) -> None:
        """Let torch.compile translate `step` for caches of fixed shape, when it is first called."""
        if self.head.weight.is_cuda:
            how: dict[str, Any] = {"mode": "reduce-overhead"}  # CUDA graphs
        else:
            how = {"options": {"cpp_wrapper": True}}  # without Python between the kernels
        self._compiled = torch.compile(self._advance, fullgraph=True, dynamic=False, **how)

    def _advance(self, cache: KeyValueCache, newest: Tensor) -> Tensor:
        x, rotation = self._locate(self._embed(newest), cache.places)
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, cache.mask, cache.extend(layer))
        logits: Tensor = self.head(self.final_norm(x))[:, 0]
        return logits

    def _with_padding_before(self, ids: Tensor) -> Tensor:
        return F.pad(ids, (len(self.previous_embeddings), 0), value=self.padding_id)

    def _embed(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, previous_characters + time]` to `[batch, time, d_model]`: each character
        and those before it.
        """
        count = len(self.previous_embeddings)
        time = ids.shape[1] - count
        x: Tensor = self.embedding(ids[:, count:])
        for distance, embedding in enumerate(self.previous_embeddings, start=1):
            x = x + embedding(ids[:, count - distance :][:, :time])
        return x * self.embedding_scale

    def _locate(self, x: Tensor, places: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Tell `[batch, time, d_model]` where each character stands: add rows of the table, or say
        how queries and keys are to be turned.
        """
        if self.positions == "rotary":
            return x, self.positions_table[:, places].unsqueeze(-3)  # the same for all heads
        learned = self.positions == "learned"
        return x + (self.learned_positions if learned else self.positions_table)[places], None


def _check_heads(d_model: int, num_heads: int) -> None:
    if d_model % num_heads:
        raise UserError(
            f"d_model is {d_model} and num_heads {num_heads}: d_model must be a multiple of "
            "num_heads"
        )


def _check_context(context_length: int) -> None:
    if context_length > _MAX_CONTEXT:
        raise UserError(f"context_length is {context_length}: accepted is at most {_MAX_CONTEXT}")


def _check_previous(previous_characters: int) -> None:
    if previous_characters < 0:
        raise UserError(f"previous_characters is {previous_characters}: accepted is 0 or more")


def _check_fractions(**fractions: float) -> None:
    for name, fraction in fractions.items():
        if not 0.0 <= fraction < 1.0:
            raise UserError(f"{name} is {fraction}: accepted is 0 or more and less than 1")
