"""A transformer with a frozen n-gram model, which it reads, or whose prediction is mixed with its
own.

Enters: ids `[batch, time]`. Leaves: logits `[batch, time, vocab]`. Read, the n-grams are an input
and the starting point of the logits, which helps in a training of a minute. Mixed, the network is
trained without them, and its prediction is averaged with theirs afterwards: for a long training, in
which reading n-grams no longer helps.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shakespeare_lm.methods.ngram_memory import NGramMemory
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer


class Recalled(NamedTuple):
    """What the memory has for the network at each position.

    Args:
        added: to the embeddings, `[batch, time, d_model]`, or None.
        log_probabilities: of the next characters, `[batch, time, vocab]`; None in training, if
            they are mixed in afterwards.
    """

    added: Tensor | None
    log_probabilities: Tensor | None


class MemoryTransformer(CausalTransformer):
    """A `CausalTransformer` with an n-gram memory, which is empty until `ngrams.remember` fills it.

    Args:
        vocab_size: number of ids, including the padding symbol, which has the last one.
        config: everything else; its `memory_order` is at least 1.
    """

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.ngrams = NGramMemory(vocab_size, config.memory_order)
        if not config.memory_share:
            self.read_ngrams = nn.Linear(self.ngrams.num_features, config.d_model, bias=False)
            nn.init.normal_(self.read_ngrams.weight, std=0.02)
            self.trust = nn.Parameter(torch.ones(1))

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        added: Tensor | None = None,
        own: Tensor | None = None,
    ) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`, as `CausalTransformer` does.

        Args:
            ids: as there.
            attention_mask: as there.
            added: as there.
            own: the targets, if the ids are from the text that the n-grams were counted in (see
                `NGramMemory.forward`).
        """
        if attention_mask is not None:  # whatever stands at padding is not part of an n-gram
            ids = ids.masked_fill(~attention_mask, self.padding_id)
        recalled = self.recall(ids, own)
        if recalled.added is not None:
            added = recalled.added if added is None else recalled.added + added
        logits = super().forward(ids, attention_mask, added)
        return self.join(logits, recalled.log_probabilities)

    def recall(self, ids: Tensor, own: Tensor | None = None) -> Recalled:
        """Return what the memory has at each of the positions `[batch, time]`; `own` as above."""
        if self.config.memory_share:
            alone = self.training
            return Recalled(None, None if alone else self.ngrams.log_probabilities(ids, own))
        features, log_probabilities = self.ngrams(ids, own)
        return Recalled(self.read_ngrams(features.to(self.trust.dtype)), log_probabilities)

    def join(self, logits: Tensor, log_probabilities: Tensor | None) -> Tensor:
        """Return the logits of the network and the memory together, `[..., vocab]` as both are."""
        if log_probabilities is None:
            return logits
        share = self.config.memory_share
        if not share:
            return self.trust * log_probabilities.to(logits.dtype) + logits
        alone = logits.float().log_softmax(-1) + math.log1p(-share)
        return torch.logaddexp(alone, log_probabilities + math.log(share))
