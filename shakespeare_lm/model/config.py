"""The options of a network, each written here only: the command line (`--model.d_model`), the YAML
files and the hyperparameters in a checkpoint take them from this class.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from shakespeare_lm.errors import (
    UserError,
    check_at_least,
    check_at_most,
    check_fraction,
    check_types,
)

PositionKind = Literal["sinusoidal", "learned", "rotary"]
Norm = Literal["pre", "post"]
Activation = Literal["gelu", "relu"]

# The sinusoidal table is not in a checkpoint, so no file size limits what a stranger's asks for.
_MAX_CONTEXT_LENGTH = 1 << 16
_MAX_PREVIOUS_CHARACTERS = 1 << 10  # each adds an embedding table


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that determines the shapes and the function of a network. The defaults are a plain
    pre-norm GPT with sinusoidal positions, without biases.

    Args:
        network: transformer, bigram (the baseline: a table that sees one character), or the import
            path of a class of your own, such as my_gru.GRU (see `Network`).
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
        zero_init: whether residual projections, and a head that is not tied, start at zero, so that
            each block starts as the identity.
        dropout: fraction of embeddings and sub-layer outputs zeroed in training.
        attention_dropout: fraction of attention weights zeroed in training.

    Raises:
        UserError: if a value has the wrong type, is out of range, or does not fit the others.
    """

    network: str = "transformer"
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
    previous_characters: int = 0
    zero_init: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0

    # Options added later, with the values that checkpoints without them were trained with, such as
    # "softcap": None. One line per option keeps older checkpoints loading.
    ADDED: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        check_types(self, NetworkConfig)
        sizes = ("context_length", "num_layers", "num_heads", "d_model")
        check_at_least(1, **{name: getattr(self, name) for name in sizes})
        check_at_least(1, d_feedforward=self.feedforward_width)
        check_at_least(0, previous_characters=self.previous_characters)
        check_at_most(_MAX_CONTEXT_LENGTH, context_length=self.context_length)
        check_at_most(_MAX_PREVIOUS_CHARACTERS, previous_characters=self.previous_characters)
        check_fraction(dropout=self.dropout, attention_dropout=self.attention_dropout)
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
        return self.num_layers * block + (tables * vocab_size + learned) * self.d_model
