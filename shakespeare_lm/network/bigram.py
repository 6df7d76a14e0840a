"""The baseline: a table of next-character logits.

Enters: ids. Leaves: logits. It sees one character of context, so whatever a transformer gains over
it comes from attention.
"""

from torch import Tensor, nn


class BigramTable(nn.Module):
    """A `[vocab, vocab]` table whose row for a character is read as the logits of the next one."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`; the mask has no effect."""
        logits: Tensor = self.table(ids)
        return logits
