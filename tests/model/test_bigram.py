"""The baseline sees one character."""

import pytest
import torch

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig


def table_of(vocab_size: int) -> BigramTable:
    return BigramTable(vocab_size, NetworkConfig(network="bigram"))


def test_a_bigram_table_sees_the_last_character_alone() -> None:
    table = table_of(5)
    logits = table(torch.tensor([[1, 2, 3], [4, 0, 3]]))
    assert logits.shape == (2, 3, 5)
    assert torch.equal(logits[0, 2], logits[1, 2])
    assert torch.equal(logits[0, 0], table.table.weight[1])


def test_an_attention_mask_has_no_effect_on_real_characters() -> None:
    table, ids = table_of(5), torch.tensor([[1, 2, 3]])
    mask = torch.tensor([[False, True, True]])
    assert torch.equal(table(ids, mask)[mask], table(ids)[mask])


def test_its_logits_are_what_is_read_and_its_hidden_states_too() -> None:
    table, ids = table_of(5), torch.tensor([[1, 2, 3]])
    hidden, logits = table(ids, with_hidden=True)
    assert torch.equal(hidden, table.table(ids))
    assert torch.equal(hidden, logits)
    assert torch.equal(table.logits(table.hidden(table.embed(ids))), table(ids))


def test_ids_without_a_batch_axis_are_refused() -> None:
    with pytest.raises(UserError, match=r"^ids has shape \(5,\): expected \[batch, time\]$"):
        table_of(5)(torch.zeros(5, dtype=torch.long))
