"""What a network is: ids -> embeddings -> hidden states -> logits, the one path that everything
takes.
"""

from typing import Protocol

from torch import Tensor, nn

from shakespeare_lm.errors import check_axes
from shakespeare_lm.model.config import NetworkConfig


class Past(Protocol):
    """What precedes `ids`, when a text is read in pieces.

    `recent` has `ids` and the ones before them, `[batch, lookback + time]`; `positions` says where
    `ids` are, for all rows or `[batch, time]`; `mask` as for `CausalSelfAttention`.
    """

    @property
    def recent(self) -> Tensor: ...
    @property
    def positions(self) -> slice | Tensor: ...
    @property
    def mask(self) -> Tensor | None: ...

    def extend(self, layer: int, keys_values: Tensor) -> Tensor:
        """Keep the keys and values of layer number `layer`, `[2, batch, heads, time, head_dim]`;
        return those of the past and these.
        """


class Network(nn.Module):
    """Predicts the next character at each position; subclasses have `embed`, `hidden`, `logits`.

    Args:
        vocab_size: number of ids, including the padding symbol, which has the last one.
        config: all options.
    """

    # Whether `embed` and `hidden` continue a `Past`.
    reads_past = False
    # How many characters before the first one `embed` looks at.
    lookback = 0

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__()
        self.vocab_size, self.config, self.padding_id = vocab_size, config, vocab_size - 1

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        past: Past | None = None,
        with_hidden: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`.

        Args:
            ids: with padding on the right or none. The causal mask alone then keeps padding from
                influencing real positions, on the fastest attention path.
            attention_mask: `[batch, time]`, True for a real character; only needed for padding
                on the left. Logits at masked positions are meaningless.
            past: what comes before `ids`, instead of an attention mask.
            with_hidden: return the hidden states too, `[batch, time, d_model]`, before the logits.

        Raises:
            UserError: if there are more than `context_length` ids, or a tensor has other axes.
        """
        ids = self.without_padding(ids, attention_mask)
        hidden = self.hidden(self.embed(ids, past), attention_mask, past)
        logits = self.logits(hidden)
        return (hidden, logits) if with_hidden else logits

    def without_padding(self, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the ids with the padding symbol wherever the mask is False."""
        check_axes("ids", ids.shape, "batch", "time")
        if attention_mask is None:
            return ids
        check_axes("attention_mask", attention_mask.shape, "batch", "time")
        return ids.masked_fill(~attention_mask, self.padding_id)

    def embed(self, ids: Tensor, past: Past | None = None) -> Tensor:
        """Map ids `[batch, time]` to vectors `[batch, time, d_model]`."""
        raise NotImplementedError

    def hidden(
        self, x: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Map embeddings to hidden states of the same shape, which see no later characters."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states `[..., d_model]` to logits `[..., vocab]`: the only place that does."""
        raise NotImplementedError
