"""The baseline: a table of next-character logits.

Enters: ids. Leaves: logits. It sees one character of context, so whatever a transformer gains over
it comes from the characters before that one.
"""

from torch import Tensor, nn

from shakespeare_lm.errors import check_axes


class BigramTable(nn.Module):
    """A `[vocab, vocab]` table whose row for a character is read as the logits of the next one."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`; the mask has no effect.

        Raises:
            UserError: if `ids` has other axes.
        """
        check_axes("ids", ids.shape, "batch", "time")
        logits: Tensor = self.table(ids)
        return logits
