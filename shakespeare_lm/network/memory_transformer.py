"""A transformer that reads, at each position, what a frozen n-gram model expects.

Enters: ids `[batch, time]`. Leaves: logits `[batch, time, vocab]`: those of the n-gram model, as
far as the network trusts it, plus the network's own.
"""

import torch
from torch import Tensor, nn

from shakespeare_lm.network.config import NetworkConfig
from shakespeare_lm.network.memory import NGramMemory
from shakespeare_lm.network.transformer import CausalTransformer


class MemoryTransformer(CausalTransformer):
    """A `CausalTransformer` with an n-gram memory, which is empty until `ngrams.remember` fills it.

    Args:
        vocab_size: number of ids, including the padding symbol, which has the last one.
        config: everything else; its `memory_order` is at least 1.
    """

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.ngrams = NGramMemory(vocab_size, config.memory_order)
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
        read, first_logits = self.remember(ids, own)
        return first_logits + super().forward(
            ids, attention_mask, read if added is None else read + added
        )

    def remember(self, ids: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what to add to the embeddings, `[batch, time, d_model]`, and to the logits,
        `[batch, time, vocab]`.
        """
        features, log_probabilities = self.ngrams(ids, own)
        dtype = self.read_ngrams.weight.dtype
        read: Tensor = self.read_ngrams(features.to(dtype))
        return read, self.trust * log_probabilities.to(dtype)
