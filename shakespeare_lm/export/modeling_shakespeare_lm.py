"""A character-level causal transformer of shakespeare_lm, for transformers' AutoModelForCausalLM.

This file is copied into exported folders, and needs torch and transformers only. The network is
that of `shakespeare_lm/model/transformer.py`. LoRA's targets are `query_key_value`, `output`,
`feed_forward.0` and `feed_forward.2`.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.utils import can_return_tuple

OPTIONS: dict[str, Any] = {
    "network": "transformer", "context_length": 128, "num_layers": 3, "num_heads": 2,
    "d_model": 160, "d_feedforward": 640, "positions": "sinusoidal", "norm": "pre",
    "activation": "gelu", "bias": False, "qkv_bias": False, "tied_head": False,
    "scale_embedding": True, "previous_characters": 0, "zero_init": False, "dropout": 0.0,
    "attention_dropout": 0.0,
}  # fmt: skip
# Another value is an error.
CHOICES = {
    "network": ("transformer",),
    "positions": ("sinusoidal", "learned", "rotary"),
    "norm": ("pre", "post"),
    "activation": ("gelu", "relu"),
}
# Later releases of transformers 5 have another name for it.
CACHE = "cache" if hasattr(CausalLMOutputWithPast, "cache") else "past_key_values"
PASSED_ON = (CACHE, "use_cache", "output_attentions", "output_hidden_states", "position_ids")


def check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


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
    """Multi-head self-attention over the positions where `mask` is 0, not -inf."""

    def __init__(self, config: ShakespeareLMConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.query_key_value = nn.Linear(config.d_model, 3 * config.d_model, bias=config.qkv_bias)
        self.output = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(
        self, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor] | None, cache: Any
    ) -> tuple[Tensor, Tensor | None]:
        heads = self.query_key_value(x).unflatten(-1, (3, self.config.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = gpt_neox.apply_rotary_pos_emb(q, k, *rotation)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        eager, kind = gpt_neox.eager_attention_forward, self.config._attn_implementation
        attend = eager if kind == "eager" else ALL_ATTENTION_FUNCTIONS[kind]
        dropout = self.config.attention_dropout if self.training else 0.0
        mixed, weights = attend(self, q, k, v, mask, scaling=q.shape[-1] ** -0.5, dropout=dropout)
        return self.output(mixed.flatten(2)), weights


class Block(GradientCheckpointingLayer):
    """Attention, then feed-forward, with the norm before or after each."""

    def __init__(self, config: ShakespeareLMConfig, layer: int) -> None:
        super().__init__()
        width = config.d_model
        self.attention = Attention(config, layer)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.d_feedforward, bias=config.bias),
            nn.GELU() if config.activation == "gelu" else nn.ReLU(),
            nn.Linear(config.d_feedforward, width, bias=config.bias),
        )
        self.attention_norm = nn.LayerNorm(width, bias=config.bias)
        self.feed_forward_norm = nn.LayerNorm(width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.norm_first = config.norm == "pre"

    def forward(
        self, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor] | None,
        layer_past: Any = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return the next hidden states, and attention weights where these are computed."""
        normed = self.attention_norm(x) if self.norm_first else x
        mixed, weights = self.attention(normed, mask, rotation, layer_past)
        x = x + self.dropout(mixed)
        if self.norm_first:
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), weights
        x = self.attention_norm(x)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x))), weights


class ShakespeareLMForCausalLM(PreTrainedModel, GenerationMixin):
    """Predicts the next character at each position from all characters up to it."""

    config_class = ShakespeareLMConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _input_embed_layer = "embedding"  # for get_input_embeddings

    def __init__(self, config: ShakespeareLMConfig) -> None:
        super().__init__(config)
        width = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.previous_embeddings = nn.ModuleList(
            nn.Embedding(config.vocab_size, width) for _ in range(config.previous_characters)
        )
        if config.positions == "learned":
            self.learned_positions = nn.Parameter(torch.zeros(config.context_length, width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        final_norm = nn.LayerNorm if config.norm == "pre" else nn.Identity
        self.final_norm = final_norm(width, bias=config.bias)
        self.head = nn.Linear(width, config.vocab_size, bias=config.bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    @can_return_tuple
    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, labels: Tensor | None = None,
        past_key_values: Any = None, cache: Any = None, use_cache: bool = False,
        output_hidden_states: bool | None = None, output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`.

        The mask is 1 for a real character; padding may be anywhere. With a cache it has columns for
        the characters in the cache too. `labels` are the same ids, with -100 for those to leave out
        of the loss. `inputs_embeds` are rows of `get_input_embeddings()`, without a cache. The last
        of the hidden states is the normed one, which the head reads.

        Raises:
            ValueError: if there are more than `context_length` characters, or an input is unknown.
        """
        cache = past_key_values if cache is None else cache
        cache = DynamicCache() if cache is None and use_cache else cache
        config = self.config
        with_states = output_hidden_states or config.output_hidden_states
        with_weights = output_attentions or config.output_attentions
        eager = config._attn_implementation == "eager"
        check(eager or not with_weights, "output_attentions: needs attn_implementation='eager'")
        check(kwargs.get("position_ids") is None, "position_ids: they follow from attention_mask")
        check((input_ids is None) != (inputs_embeds is None), "expected input_ids or inputs_embeds")
        given: Any = inputs_embeds if input_ids is None else input_ids
        real = self._real(given, attention_mask, cache)
        x = given if input_ids is None else self._embed(given, real, cache)
        states, weights = self._hidden_states(x, real, cache)
        logits, loss = self.head(states[-1]), None
        if labels is not None:
            loss = self.loss_function(logits, labels, config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=states if with_states else None,
            attentions=weights if with_weights else None, **{CACHE: cache},
        )  # fmt: skip

    def _real(self, given: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """Return which characters are real, `[batch, cached + time]`, of inputs that fit."""
        alone = cache is None and not self.config.previous_characters
        check(alone or given.ndim == 2, "inputs_embeds: not with a cache or previous_characters")
        length = given.shape[1] + (0 if cache is None else cache.get_seq_length())
        most, shape = self.config.context_length, (len(given), length)
        check(length <= most, f"{length} characters are more than the context_length, {most}")
        mask = given.new_ones(shape) if mask is None else mask
        check(mask.shape == shape, f"attention_mask is {list(mask.shape)}: expected {list(shape)}")
        return mask.bool()

    def _embed(self, ids: Tensor, real: Tensor, cache: Any) -> Tensor:
        """Return the sum of a character's embeddings; the cache remembers the ids."""
        last, seen = self.config.vocab_size - 1, real.shape[1] - ids.shape[1]
        ids = ids.masked_fill(~real[:, seen:], last)  # padding
        unknown = ids[(ids < 0) | (ids > last)].tolist()
        check(not unknown, f"input_ids has {unknown[:5]}: expected 0 to {last}")
        text = torch.cat((cache.ids[:, :seen], ids), dim=1) if seen else ids
        if cache is not None:
            cache.ids = text
        x: Tensor = self.embedding(ids)
        for distance, embedding in enumerate(self.previous_embeddings, start=1):
            x = x + embedding(F.pad(text, (distance, 0), value=last)[:, seen:-distance])
        return x

    def _hidden_states(
        self, x: Tensor, real: Tensor, cache: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return those of the embeddings and after each block, and each block's attention."""
        config, time, rotation = self.config, x.shape[1], None
        x = x * (math.sqrt(config.d_model) if config.scale_embedding else 1.0)
        positions = (real.long().cumsum(-1) - 1).clamp(min=0)[:, -time:]  # of real characters
        if config.positions == "learned":
            x = x + self.learned_positions[positions]
        elif config.positions == "sinusoidal":
            sin, cos = sines_and_cosines(positions, config.d_model, x.dtype)
            x = x + torch.stack((sin, cos), dim=-1).flatten(2)
        else:
            sin, cos = sines_and_cosines(positions, config.d_model // config.num_heads, x.dtype)
            rotation = (torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1))
        mask, states, weights = causal_mask(real, time, x.dtype), [self.dropout(x)], []
        for block in self.blocks:
            x, weight = block(states[-1], mask, rotation, layer_past=cache)
            states.append(x)
            weights.append(weight)
        return (*states[:-1], self.final_norm(states[-1])), tuple(weights)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pass on the part of the context window that is not in the cache."""
        start, cache = window_start(input_ids.shape[1], self.config), kwargs.get(CACHE)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids, mask = input_ids[:, start:], mask[:, start:]
        kept = self._crop(cache, ids, mask) if cache is not None and cache.get_seq_length() else 0
        passed_on = {name: kwargs[name] for name in PASSED_ON if name in kwargs}
        return {"input_ids": ids[:, kept:], "attention_mask": mask, **passed_on}

    def _crop(self, cache: Any, ids: Tensor, mask: Tensor) -> int:
        """Drop what the cache holds of another text, such as a rejected draft or the last window,
        and the newest character, which is to be read; return how many characters it keeps.
        """
        seen = cache.ids[:, : cache.get_seq_length()]
        count = min(seen.shape[1], ids.shape[1] - 1)
        text = ids.masked_fill(mask == 0, self.config.vocab_size - 1)
        same = (seen[:, :count] == text[:, :count]).all(dim=0)
        kept = int(same.long().cumprod(0).sum())
        if kept < seen.shape[1]:
            cache.crop(kept - seen.shape[1])
        return kept

    def _assisted_decoding(self, *args: Any, **kwargs: Any) -> Any:
        """Within one context window: in another, a draft would be judged by other logits."""
        options, most = kwargs["generation_config"], self.config.context_length
        length = options.max_length + (options.prompt_lookup_num_tokens or 0)
        check(length <= most, f"assisted decoding to {length} characters: expected at most {most}")
        mixin: Any = GenerationMixin
        return mixin._assisted_decoding(self, *args, **kwargs)


def window_start(length: int, config: PretrainedConfig) -> int:
    """Return where the context window of a text begins: a full one restarts with its newer half."""
    most = config.context_length
    step = most + 1 - max(1, most // 2)
    return max(0, math.ceil((length - most) / step)) * step


def causal_mask(real: Tensor, time: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where one of the last `time` characters may attend to a character: itself and the
    real ones before it. Elsewhere it is -inf, `[batch, 1, time, columns]`.
    """
    columns = torch.arange(real.shape[1], device=real.device)
    rows = columns[-time:, None]
    allowed = (columns < rows) & real[:, None] | (columns == rows)
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=real.device)
    return zeros.masked_fill(~allowed, -math.inf)[:, None]


def sines_and_cosines(positions: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return those of position / 10000^(2i / width), `[batch, time, width / 2]`."""
    device = positions.device
    positions = positions.cpu() if device.type == "mps" else positions  # which has no float64
    steps = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
    angles = positions[..., None].double() * 10_000.0**-steps
    return angles.sin().to(dtype).to(device), angles.cos().to(dtype).to(device)
