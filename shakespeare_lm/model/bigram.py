"""The baseline: a table of next-character logits.

It sees one character, so whatever a transformer gains over it comes from the characters before.
"""

from torch import Tensor, nn

from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network, Past


class BigramTable(Network):
    """A `[vocab, vocab]` table whose row for a character is read as the logits of the next one."""

    reads_past = True  # of which it needs nothing

    def __init__(self, vocab_size: int, config: NetworkConfig) -> None:
        super().__init__(vocab_size, config)
        self.table = nn.Embedding(vocab_size, vocab_size)

    def embed(self, ids: Tensor, past: Past | None = None) -> Tensor:
        rows: Tensor = self.table(ids)
        return rows

    def hidden(
        self, x: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden
