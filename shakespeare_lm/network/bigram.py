"""The baseline: a table that knows, for each character, how likely each next one is.

Enters: ids. Leaves: logits. It sees one character of context, so whatever a transformer gains over
it, attention has earned.
"""

from torch import Tensor, nn


class BigramTable(nn.Module):
    """A `[vocab, vocab]` table whose row is read as the logits of the next character."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`; nothing is attended to."""
        logits: Tensor = self.table(ids)
        return logits
