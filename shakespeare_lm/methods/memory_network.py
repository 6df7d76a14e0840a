"""A network with an n-gram memory, which it reads, or whose prediction is mixed with its own.

If it is read, the n-grams are an input and the starting point of the logits: a transformer spends
its first minutes learning what counting gives at once. If it is mixed, the network is trained alone
and both predictions are averaged afterwards, which is better after a long training.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from shakespeare_lm.errors import (
    UserError,
    check_at_least,
    check_at_most,
    check_fraction,
    check_types,
)
from shakespeare_lm.methods.ngram_memory import NGramMemory
from shakespeare_lm.model.network import Network, Past

# Longer n-grams of characters predict no better.
_MAX_ORDER = 16


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Which n-gram memory a network has.

    Args:
        memory_order: the longest n-gram of a frozen n-gram model of the training part, which the
            network reads and starts its logits from; 0 for none.
        memory_share: weight of the n-gram model where both predictions are averaged, outside
            training: the network neither reads it nor is trained with it, which is better in a
            long training.

    Raises:
        UserError: if a value has the wrong type, is out of range, or does not fit the other.
    """

    memory_order: int = 0
    memory_share: float = 0.0

    ADDED: ClassVar[dict[str, Any]] = {"memory_order": 0, "memory_share": 0.0}

    def __post_init__(self) -> None:
        check_types(self, MemoryConfig)
        check_at_least(0, memory_order=self.memory_order)
        check_at_most(_MAX_ORDER, memory_order=self.memory_order)
        check_fraction(memory_share=self.memory_share)
        if self.memory_share and not self.memory_order:
            raise UserError(
                f"memory_share is {self.memory_share} and memory_order is 0: there is no memory to "
                "mix with; set memory_order, such as 8"
            )


class MemoryNetwork(Network):
    """A network with an n-gram memory, which is empty until `ngrams.remember` fills it.

    Args:
        base: the network.
        order: the longest n-gram, at least 1.
        share: the memory's share of the prediction; 0 if it is read instead.
    """

    def __init__(self, base: Network, order: int, share: float) -> None:
        super().__init__(base.vocab_size, base.config)
        self.base, self.share = base, share
        self.reads_past = base.reads_past
        self.lookback = max(base.lookback, order - 1)
        self.ngrams = NGramMemory(base.vocab_size, order)
        if not share:
            self.read_ngrams = nn.Linear(self.ngrams.num_features, base.config.d_model, bias=False)
            nn.init.normal_(self.read_ngrams.weight, std=0.02)
            self.trust = nn.Parameter(torch.ones(1))

    @property
    def blocks(self) -> nn.Module:
        return cast(nn.Module, self.base.blocks)

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        past: Past | None = None,
        with_hidden: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Map ids `[batch, time]` to the logits of the network and the memory together."""
        ids = self.without_padding(ids, attention_mask)
        x, log_probabilities = self._read(ids, past)
        hidden = self.hidden(x, attention_mask, past)
        logits = self._join(self.logits(hidden), log_probabilities)
        return (hidden, logits) if with_hidden else logits

    def embed(self, ids: Tensor, past: Past | None = None) -> Tensor:
        return self._read(ids, past)[0]

    def hidden(
        self, x: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        return self.base.hidden(x, attention_mask, past)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.base.logits(hidden)

    def _read(self, ids: Tensor, past: Past | None) -> tuple[Tensor, Tensor | None]:
        """Return what the base's blocks read, and the memory's log-probabilities, if it is used."""
        x, new = self.base.embed(ids, past), slice(-ids.shape[1], None)
        if self.share and self.training:
            return x, None
        recent = ids if past is None else past.recent
        if self.share:
            return x, self.ngrams.log_probabilities(recent)[:, new]
        features, log_probabilities = self.ngrams(recent)
        read = self.read_ngrams(features[:, new].to(self.trust.dtype))
        return x + read, log_probabilities[:, new]

    def _join(self, logits: Tensor, log_probabilities: Tensor | None) -> Tensor:
        if log_probabilities is None:
            return logits
        if not self.share:
            return self.trust * log_probabilities.to(logits.dtype) + logits
        alone = logits.float().log_softmax(-1) + math.log1p(-self.share)
        return torch.logaddexp(alone, log_probabilities + math.log(self.share))
