"""Attention weights to be shown; training and completion keep no such `[time, time]` matrix."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor

from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.model.attention import CausalSelfAttention
from shakespeare_lm.model.network import Network
from shakespeare_lm.model.transformer import Block


def attention_weights(network: Network, ids: Tensor) -> Tensor:
    """Return `[layers, batch, heads, time, time]`: each row says how much a position attends to
    itself and to those before it, and sums to one (Vaswani et al. 2017, equation 1).

    Args:
        network: a transformer, with or without a memory; its mode is restored.
        ids: `[batch, time]`, without padding, at most `context_length` characters.

    Raises:
        UserError: if there are too many ids, or they have other axes.
    """
    layers: list[Tensor] = []

    def record(attention: CausalSelfAttention, arguments: tuple[Any, ...]) -> None:
        x, rotation, *_ = arguments
        q, k, _ = attention.project(x, rotation)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        layers.append(scores.masked_fill(future, -math.inf).softmax(-1))

    with ExitStack() as hooks, evaluating(network):
        for block in cast(Iterable[Block], network.blocks):
            hooks.enter_context(block.attention.register_forward_pre_hook(record))
        network(ids)
    return torch.stack(layers)
