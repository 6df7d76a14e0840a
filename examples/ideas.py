"""Ideas that the literature recommends, each in a few lines, to compare with the plain network:

    python scripts/compare.py --config plain --seeds 5 \
        --variant "swiglu: --model.network examples.ideas.SwiGLU" \
        --variant "gate: --model.network examples.ideas.HeadGate"

What came out: docs/EXPERIMENTS.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.kernels.attention import attend
from shakespeare_lm.model.attention import CausalSelfAttention
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.initialisation import ResidualProjection, initialise_weights
from shakespeare_lm.model.positions import rotate
from shakespeare_lm.model.transformer import CausalTransformer


class _Changed(CausalTransformer):
    """A transformer whose blocks are changed before its weights are drawn."""

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.change(config)
        initialise_weights(self, config.num_layers, config.zero_init)
        if config.zero_init:
            nn.init.zeros_(self.head.weight)

    def change(self, config: NetworkConfig) -> None:
        pass


class Unchanged(_Changed):
    """The baseline under another name, with other first weights: an idea without an effect."""


class SwiGLU(_Changed):
    """A gate in the feed-forward layers (Shazeer 2020), with as many weights."""

    def change(self, config: NetworkConfig) -> None:
        for block in self.blocks:
            block.feed_forward = GatedFeedForward(config)


class GatedFeedForward(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d_model, width, bias = config.d_model, 2 * config.feedforward_width // 3, config.bias
        self.gate = nn.Linear(d_model, width, bias=bias)
        self.value = nn.Linear(d_model, width, bias=bias)
        self.output = ResidualProjection(width, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(F.silu(self.gate(x)) * self.value(x))
        return output


class OneKeyValueHead(_Changed):
    """All heads share their keys and values (Shazeer 2019): fewer weights, a smaller cache."""

    def change(self, config: NetworkConfig) -> None:
        for block in self.blocks:
            block.attention = SharedKeysValues(config)


class SharedKeysValues(CausalSelfAttention):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        width = config.d_model + 2 * config.head_dim
        self.query_key_value = nn.Linear(config.d_model, width, bias=config.qkv_bias)

    def project(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Return queries, keys and values, `[3, batch, heads, time, head_dim]`."""
        width = x.shape[-1]
        heads = self.query_key_value(x).unflatten(-1, (-1, width // self.num_heads))
        queries, keys, values = heads.movedim(1, 2).split((self.num_heads, 1, 1), dim=1)
        shared = torch.stack((queries, keys.expand_as(queries), values.expand_as(queries)))
        if rotation is None:
            return shared
        return torch.cat((rotate(shared[:2], rotation), shared[2:]))


class SoftCap(_Changed):
    """Logits between -15 and 15 (Gemma 2, 2024)."""

    def logits(self, hidden: Tensor) -> Tensor:
        return 15 * torch.tanh(super().logits(hidden) / 15)


class ValueResidual(_Changed):
    """Each layer's values mixed with the first layer's (Zhou et al. 2024)."""

    def change(self, config: NetworkConfig) -> None:
        first: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            block.attention = MixedValues(config, first, is_first=layer == 0)


class MixedValues(CausalSelfAttention):
    def __init__(self, config: NetworkConfig, first: list[Tensor], is_first: bool) -> None:
        super().__init__(config)
        self.first, self.is_first = first, is_first
        self.share = nn.Parameter(torch.tensor([0.5]))  # of the layer's own values

    def project(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Return queries, keys and values, `[3, batch, heads, time, head_dim]`."""
        heads = super().project(x, rotation)
        if self.is_first:
            self.first[:] = [heads[2]]
            return heads
        values = self.share * heads[2] + (1 - self.share) * self.first[0]
        return torch.cat((heads[:2], values[None].to(heads.dtype)))


class HeadGate(_Changed):
    """Each head's output times a gate that depends on the input (Qiu et al. 2025)."""

    def change(self, config: NetworkConfig) -> None:
        for block in self.blocks:
            block.attention = GatedHeads(config)


class GatedHeads(CausalSelfAttention):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.gate = nn.Linear(config.d_model, config.num_heads, bias=False)

    def forward(self, x, rotation=None, mask=None, extend=None) -> Tensor:  # type: ignore[no-untyped-def]
        """Map `[batch, time, d_model]` to the same shape."""
        heads = self.project(x, rotation)
        k, v = heads[1:] if extend is None else extend(heads[1:])
        mixed = attend(heads[0], k, v, mask, self.dropout if self.training else 0.0)
        gates = torch.sigmoid(self.gate(x)).mT[..., None]
        projected: Tensor = self.output((mixed * gates).transpose(1, 2).flatten(2))
        return projected
