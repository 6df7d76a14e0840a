"""The baseline sees one character."""

import pytest
import torch

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.bigram import BigramTable


def test_a_bigram_table_sees_the_last_character_alone() -> None:
    table = BigramTable(5)
    logits = table(torch.tensor([[1, 2, 3], [4, 0, 3]]))
    assert logits.shape == (2, 3, 5)
    assert torch.equal(logits[0, 2], logits[1, 2])
    assert torch.equal(logits[0, 0], table.table.weight[1])


def test_an_attention_mask_has_no_effect() -> None:
    table, ids = BigramTable(5), torch.tensor([[1, 2, 3]])
    assert torch.equal(table(ids, torch.tensor([[True, False, False]])), table(ids))


def test_ids_without_a_batch_axis_are_refused() -> None:
    with pytest.raises(UserError, match=r"^ids has shape \(5,\): expected \[batch, time\]$"):
        BigramTable(5)(torch.zeros(5, dtype=torch.long))
