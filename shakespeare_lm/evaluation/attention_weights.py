"""A network and ids -> how much each position attends to each other one.

Enters: ids `[batch, time]`. Leaves: weights that can be shown. Training and completion keep no such
`[time, time]` matrix.
"""

import math

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.model.attention import AttentionInputs, CausalSelfAttention
from shakespeare_lm.model.transformer import CausalTransformer


def attention_weights(transformer: CausalTransformer, ids: Tensor) -> Tensor:
    """Return `[layers, batch, heads, time, time]`: in each row, how the position attends to itself
    and to those before it (Vaswani et al. 2017, equation 1). Each row sums to one.

    Args:
        transformer: it is left in the mode it was in.
        ids: `[batch, time]`, without padding, at most `context_length` characters.

    Raises:
        UserError: if there are too many ids, or they have other axes.
    """
    layers: list[Tensor] = []

    def record(attention: CausalSelfAttention, arguments: tuple[Tensor, AttentionInputs]) -> None:
        x, inputs = arguments
        q, k, _ = attention.project(x, inputs.rotation)
        layers.append(_weights(q, k))

    hooks: list[RemovableHandle] = []
    try:
        for block in transformer.blocks:
            hooks.append(block.attention.register_forward_pre_hook(record))  # type: ignore[union-attr]
        with evaluating(transformer):
            transformer(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(layers)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)
