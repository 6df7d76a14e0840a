"""Several networks as one: the mean of their next-character probabilities."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shakespeare_lm.model.network import Network, Past


class Ensemble(Network):
    """Networks of one vocabulary, whose probabilities are averaged; the logits are the logarithms
    of the means, in float32. Its context is that of the member with the shortest.
    """

    def __init__(self, members: Sequence[Network]) -> None:
        shortest = min(members, key=lambda member: member.config.context_length)
        super().__init__(shortest.vocab_size, shortest.config)
        self.members = nn.ModuleList(members)
        self.reads_past = all(member.reads_past for member in members)
        self.lookback = max(member.lookback for member in members)

    def embed(self, ids: Tensor, past: Past | None = None) -> Tensor:
        """Return the ids: each member has embeddings of its own."""
        return ids

    def hidden(
        self, x: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Map ids to the members' log-probabilities, `[batch, time, members, vocab]`."""
        past = None if past is None else _AllLayers(past)
        logits = [member(x, attention_mask, past) for member in self.members]
        return torch.stack([one.float().log_softmax(-1) for one in logits], dim=-2)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.logsumexp(dim=-2) - math.log(len(self.members))


class _AllLayers:
    """The `Past` of all members: it numbers their layers through, in the order of the calls."""

    def __init__(self, past: Past) -> None:
        self.recent, self.positions, self.mask = past.recent, past.positions, past.mask
        self._past, self._count = past, 0

    def extend(self, layer: int, keys_values: Tensor) -> Tensor:
        self._count += 1
        return self._past.extend(self._count - 1, keys_values)
