"""The options of a network: name, type, default, documentation and check, each written here only.

The command line (`--model.d_model`), the YAML files and the hyperparameters in a checkpoint take
them from this class.
"""

from dataclasses import dataclass, fields
from typing import Literal

from shakespeare_lm.errors import (
    UserError,
    check_at_least,
    check_at_most,
    check_fraction,
    check_types,
)
from shakespeare_lm.model.feed_forward import Activation
from shakespeare_lm.model.positions import PositionKind

NetworkKind = Literal["transformer", "bigram"]
Norm = Literal["pre", "post"]

# The sinusoidal table is not part of a checkpoint, so no file size limits the context length of a
# checkpoint from somebody else: this does.
_MAX_CONTEXT_LENGTH = 1 << 16
# Longer n-grams of characters predict no better.
_MAX_MEMORY_ORDER = 16


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that determines the shapes and the function of a network.

    Args:
        network: transformer, or bigram (the baseline: a table that sees one character).
        context_length: how many characters the network sees at once.
        num_layers: number of transformer blocks.
        num_heads: attention heads per block; must divide d_model.
        d_model: width of the residual stream.
        d_feedforward: inner width of the feed-forward layers; 4 * d_model by default.
        positions: how the network knows where in the context a character is.
        norm: layer norm before each sub-layer (pre, with a final norm before the head) or after it
            (post).
        activation: nonlinearity of the feed-forward layers.
        bias: whether linear layers and layer norms have biases.
        qkv_bias: whether the query/key/value projection has a bias.
        tied_head: whether the head shares the weights of the character embedding.
        scale_embedding: whether embeddings are multiplied by sqrt(d_model).
        previous_characters: how many preceding characters are embedded and added at each position,
            with one embedding table per distance.
        memory_order: the longest n-gram of a frozen n-gram model of the training part, which the
            network reads and starts its logits from; 0 for none.
        memory_share: weight of the n-gram model when both predictions are averaged, outside
            training; the network then neither reads it nor is trained with it; better than
            reading it in a long training.
        zero_init: whether residual projections, and a head that is not tied, start at zero, so that
            each block starts as the identity.
        dropout: fraction of embeddings and sub-layer outputs zeroed in training.
        attention_dropout: fraction of attention weights zeroed in training.

    Raises:
        UserError: if a value has the wrong type, is out of range, or does not fit the others.
    """

    network: NetworkKind = "transformer"
    context_length: int = 128
    num_layers: int = 3
    num_heads: int = 2
    d_model: int = 160
    d_feedforward: int | None = None
    positions: PositionKind = "sinusoidal"
    norm: Norm = "pre"
    activation: Activation = "gelu"
    bias: bool = False
    qkv_bias: bool = False
    tied_head: bool = False
    scale_embedding: bool = True
    previous_characters: int = 4
    memory_order: int = 0
    memory_share: float = 0.0
    zero_init: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, NetworkConfig)
        check_at_least(
            1,
            context_length=self.context_length,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            d_model=self.d_model,
            d_feedforward=self.feedforward_width,
        )
        check_at_least(
            0, previous_characters=self.previous_characters, memory_order=self.memory_order
        )
        check_at_most(_MAX_MEMORY_ORDER, memory_order=self.memory_order)
        check_fraction(
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            memory_share=self.memory_share,
        )
        if self.memory_order and self.network == "bigram":
            raise UserError(
                f"memory_order is {self.memory_order} and network is bigram, which cannot have a "
                "memory: set memory_order 0, or network transformer"
            )
        if self.memory_share and not self.memory_order:
            raise UserError(
                f"memory_share is {self.memory_share} and memory_order is 0: there is no memory to "
                "mix with; set memory_order, such as 8"
            )
        if self.context_length > _MAX_CONTEXT_LENGTH:
            raise UserError(
                f"context_length is {self.context_length}: expected at most {_MAX_CONTEXT_LENGTH}"
            )
        if self.d_model % self.num_heads:
            raise UserError(
                f"d_model is {self.d_model} and num_heads is {self.num_heads}: d_model must be a "
                "multiple of num_heads"
            )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    @property
    def feedforward_width(self) -> int:
        return 4 * self.d_model if self.d_feedforward is None else self.d_feedforward

    def num_matrix_weights(self, vocab_size: int) -> int:
        """Return the number of weights in matrices, which is nearly all of them."""
        if self.network == "bigram":
            return vocab_size**2
        block = 4 * self.d_model**2 + 2 * self.d_model * self.feedforward_width
        tables = 1 + self.previous_characters + (0 if self.tied_head else 1)
        learned = self.context_length if self.positions == "learned" else 0
        remembered = 0 if self.memory_share else self.memory_order * (vocab_size + 1)
        rows = tables * vocab_size + learned + remembered
        return self.num_layers * block + rows * self.d_model


NETWORK_OPTIONS = tuple(field.name for field in fields(NetworkConfig))
