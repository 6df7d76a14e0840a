"""A character-level causal transformer of shakespeare_lm, for transformers' AutoModelForCausalLM.

This file is copied into exported folders, and needs torch and transformers only. The network is
that of `shakespeare_lm/model/transformer.py`, without a cache: each new character is predicted from
the last `context_length` ones.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

OPTIONS: dict[str, Any] = {
    "network": "transformer", "context_length": 128, "num_layers": 3, "num_heads": 2,
    "d_model": 160, "d_feedforward": 640, "positions": "sinusoidal", "norm": "pre",
    "activation": "gelu", "bias": False, "qkv_bias": False, "tied_head": False,
    "scale_embedding": True, "previous_characters": 0, "zero_init": False, "dropout": 0.0,
    "attention_dropout": 0.0,
}  # fmt: skip
# Another value is an error.
CHOICES = {
    "network": ("transformer", "bigram"),
    "positions": ("sinusoidal", "learned", "rotary"),
    "norm": ("pre", "post"),
    "activation": ("gelu", "relu"),
}


class ShakespeareLMConfig(PretrainedConfig):
    """Options, by their names in shakespeare_lm."""

    model_type = "shakespeare_lm"
    attribute_map = {  # noqa: RUF012  (the names that transformers asks for)
        "num_hidden_layers": "num_layers", "hidden_size": "d_model",
        "num_attention_heads": "num_heads", "max_position_embeddings": "context_length",
    }  # fmt: skip

    def __init__(self, vocab_size: int = 66, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        for name, default in OPTIONS.items():
            value = kwargs.pop(name, default)
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} is {value!r}: choose from: {', '.join(CHOICES[name])}")
            setattr(self, name, value)
        super().__init__(**kwargs)


class Attention(nn.Module):
    """Multi-head self-attention over the positions that `mask` allows."""

    def __init__(self, config: ShakespeareLMConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.attention_dropout
        self.query_key_value = nn.Linear(config.d_model, 3 * config.d_model, bias=config.qkv_bias)
        self.output = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then feed-forward, with the norm before or after each."""

    def __init__(self, config: ShakespeareLMConfig) -> None:
        super().__init__()
        width = config.d_model
        self.attention = Attention(config)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.d_feedforward, bias=config.bias),
            nn.GELU() if config.activation == "gelu" else nn.ReLU(),
            nn.Linear(config.d_feedforward, width, bias=config.bias),
        )
        self.attention_norm = nn.LayerNorm(width, bias=config.bias)
        self.feed_forward_norm = nn.LayerNorm(width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.norm_first = config.norm == "pre"

    def forward(self, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), mask, rotation))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, mask, rotation)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class ShakespeareLMForCausalLM(PreTrainedModel, GenerationMixin):
    """Predicts the next character at each position from all characters up to it."""

    config_class = ShakespeareLMConfig
    main_input_name = "input_ids"

    def __init__(self, config: ShakespeareLMConfig) -> None:
        super().__init__(config)
        if config.network == "bigram":
            self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        else:
            self._add_transformer(config)
        self.post_init()

    def _add_transformer(self, config: ShakespeareLMConfig) -> None:
        width = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.previous_embeddings = nn.ModuleList(
            nn.Embedding(config.vocab_size, width) for _ in range(config.previous_characters)
        )
        if config.positions == "learned":
            self.learned_positions = nn.Parameter(torch.zeros(config.context_length, width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        final_norm = nn.LayerNorm if config.norm == "pre" else nn.Identity
        self.final_norm = final_norm(width, bias=config.bias)
        self.head = nn.Linear(width, config.vocab_size, bias=config.bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None,
        labels: Tensor | None = None, **kwargs: Any,
    ) -> CausalLMOutput:  # fmt: skip
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`.

        The mask is 1 for a real character; padding may be anywhere. `labels` are the same ids, with
        -100 for those to leave out of the loss. Options of a cache are ignored.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = mask.bool()
        ids = input_ids.masked_fill(~real, self.config.vocab_size - 1)
        logits = self.table(ids) if self.config.network == "bigram" else self._logits(ids, real)
        predicted = logits[:, :-1].flatten(0, 1)
        loss = None if labels is None else F.cross_entropy(predicted, labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def _logits(self, ids: Tensor, real: Tensor) -> Tensor:
        config = self.config
        where = (real.long().cumsum(-1) - 1).clamp(min=0)  # padding on the left shifts nothing
        square = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device)
        itself = square.tril() & square.triu()
        mask = ((square.tril() & real[:, None, :]) | itself)[:, None]
        x, rotation = self._embed(ids), None
        if config.positions == "learned":
            x = x + self.learned_positions[where]
        elif config.positions == "sinusoidal":
            sin, cos = sines_and_cosines(where, config.d_model, x.dtype)
            x = x + torch.stack((sin, cos), dim=-1).flatten(2)
        else:
            sin, cos = sines_and_cosines(where, config.d_model // config.num_heads, x.dtype)
            rotation = (sin[:, None], cos[:, None])
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask, rotation)
        return self.head(self.final_norm(x))

    def _embed(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for distance, embedding in enumerate(self.previous_embeddings, start=1):
            before = F.pad(ids, (distance, 0), value=self.config.vocab_size - 1)[:, :-distance]
            x = x + embedding(before)
        return x * (math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pass the last `context_length` characters on."""
        window = slice(-self.config.context_length, None)
        mask = None if attention_mask is None else attention_mask[:, window]
        return {"input_ids": input_ids[:, window], "attention_mask": mask}


def sines_and_cosines(positions: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return those of position / 10000^(2i / width), `[batch, time, width / 2]`."""
    device = positions.device
    positions = positions.cpu() if device.type == "mps" else positions  # which has no float64
    steps = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
    angles = positions[..., None].double() * 10_000.0**-steps
    return angles.sin().to(dtype).to(device), angles.cos().to(dtype).to(device)


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate columns of queries or keys, `[batch, heads, time, head_dim]`: the first half with the
    second.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
