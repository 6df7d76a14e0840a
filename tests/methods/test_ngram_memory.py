"""The n-gram memory: a Kneser-Ney model, which in training has not seen the answer."""

import contextlib
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from shakespeare_lm import hardware
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods import ngram_memory as module
from shakespeare_lm.methods.ngram_memory import NGramMemory, has_sparse, leaving_out
from shakespeare_lm.methods.ngrams import NGramModel
from tests.methods.conftest import count, kneser_ney

VOCABULARY, ORDER = 5, 4  # the last id is the padding symbol
LENGTHS = [150, 90, 60]


def some_ids(count: int, seed: int = 0) -> Tensor:
    chosen = random.Random(seed).choices(range(VOCABULARY - 1), weights=[8, 4, 2, 1], k=count)
    return torch.tensor(chosen)


IDS = some_ids(sum(LENGTHS))


@pytest.fixture
def memory() -> NGramMemory:
    memory = NGramMemory(VOCABULARY, ORDER)
    memory.remember(IDS, torch.tensor(LENGTHS))
    return memory


def log_probabilities(memory: NGramMemory, ids: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return those after the ids of one text, without its targets."""
    with leaving_out(memory, None if targets is None else targets[None]):
        return memory.log_probabilities(ids[None])[0]


def test_it_is_the_ngram_model_of_the_text(memory: NGramMemory) -> None:
    text = some_ids(40, seed=1)
    model = NGramModel(IDS.numpy(), LENGTHS, VOCABULARY, ORDER)
    *_, expected = model.log_probabilities(text.numpy(), [40])
    features, highest = memory(text[None, :-1])
    found = highest[0].gather(1, text[1:, None])[:, 0]
    np.testing.assert_allclose(found, expected[1:], rtol=1e-5)
    torch.testing.assert_close(highest.exp().sum(-1), torch.ones(1, 39))
    roots, totals = features[0].split([ORDER * VOCABULARY, ORDER], dim=-1)
    torch.testing.assert_close((roots[:, -VOCABULARY:] / 4).square().log(), highest[0])
    before = text[3:6].tolist()
    documents = [document.tolist() for document in IDS.split(LENGTHS)]
    times = sum(d[i : i + 3] == before for d in documents for i in range(len(d) - 3))
    assert totals[5, -1] == pytest.approx(math.log1p(times))


def test_leaving_out_the_own_occurrence_is_counting_anew_without_it(memory: NGramMemory) -> None:
    documents = [document.tolist() for document in IDS.split(LENGTHS)]
    every = count(documents, ORDER)
    for number, text in enumerate(documents):
        ids = torch.tensor(text)
        found = log_probabilities(memory, ids[:-1], ids[1:])
        expected = [
            kneser_ney(VOCABULARY, text[:at], count(documents, ORDER, (number, at)), every)
            for at in range(1, len(text))
        ]
        torch.testing.assert_close(found, torch.tensor(expected).log(), rtol=1e-4, atol=1e-4)


def test_a_character_that_occurs_once_is_not_expected_where_it_is(memory: NGramMemory) -> None:
    ids = torch.tensor([0, 1, 0, 2] * 8)
    ids[21] = 3
    memory.remember(ids, torch.tensor([32]))
    assert log_probabilities(memory, ids[:21])[-1, 3] > math.log(0.1)
    assert log_probabilities(memory, ids[:21], ids[1:22])[-1, 3] < math.log(0.02)


def test_at_the_beginning_of_a_window_only_what_is_certain_is_left_out(memory: NGramMemory) -> None:
    whole = log_probabilities(memory, IDS[:-1], IDS[1:])[40:60]
    window = log_probabilities(memory, IDS[40:60], IDS[41:61])
    torch.testing.assert_close(window[ORDER - 2 :], whole[ORDER - 2 :])
    assert torch.isfinite(window).all()
    assert not torch.equal(window[0], whole[0])


def test_what_is_left_out_ends_with_the_block_and_is_told_to_every_memory() -> None:
    nested = torch.nn.ModuleList([torch.nn.ModuleList([NGramMemory(5, 4)]), NGramMemory(5, 4)])
    memories = [part for part in nested.modules() if isinstance(part, NGramMemory)]
    targets = IDS[None, 4:10]
    with contextlib.suppress(KeyError), leaving_out(nested, targets):
        assert [memory.left_out is targets for memory in memories] == [True, True]
        raise KeyError
    assert [memory.left_out for memory in memories] == [None, None]


def test_its_text_is_its_state(memory: NGramMemory) -> None:
    fresh, ids = NGramMemory(VOCABULARY, ORDER), some_ids(12, seed=3)[None]
    fresh.load_state_dict(memory.state_dict())
    assert torch.equal(fresh(ids)[0], memory(ids)[0])
    state = {name: tensor.dtype for name, tensor in memory.state_dict().items()}
    assert state == {"text": torch.uint8, "lengths": torch.int64}
    memory.remember(torch.zeros(30, dtype=torch.long), torch.tensor([30]))
    assert not torch.equal(fresh(ids)[0], memory(ids)[0])
    assert NGramMemory(300, 2).text.dtype == torch.int32


def test_padding_and_unseen_contexts_leave_the_order_below(memory: NGramMemory) -> None:
    padded = torch.tensor([4, 4, 0, 1])
    found, plain = log_probabilities(memory, padded), log_probabilities(memory, padded[2:])
    torch.testing.assert_close(found[2:], plain)
    empty = log_probabilities(NGramMemory(VOCABULARY, ORDER), padded)
    torch.testing.assert_close(empty.exp(), torch.full((4, VOCABULARY), 1 / VOCABULARY))


def test_sparse_tables_give_the_numbers_of_dense_ones(
    memory: NGramMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.cat((some_ids(30, seed=4), torch.tensor([4, 0]))).view(2, 16)
    read = []
    for dense_bytes in (0, 250, 1 << 20):  # none, those of two orders, all
        monkeypatch.setattr(module, "_SMALL_BYTES", dense_bytes)
        monkeypatch.setattr(module, "_DENSE_BYTES_PER_CHARACTER", 0)
        memory.remember(IDS, torch.tensor(LENGTHS))
        with leaving_out(memory, ids.roll(-1)):
            read.append(memory(ids))
        axes = [order.discounted.ndim for order in memory._orders]
        assert axes == {0: [1, 1, 1, 1], 250: [2, 2, 1, 1], 1 << 20: [2, 2, 2, 2]}[dense_bytes]
        assert has_sparse(memory) is (min(axes) == 1)
    assert all(
        torch.equal(*pair) for other in read[1:] for pair in zip(read[0], other, strict=True)
    )


def test_thousands_of_symbols_take_memory_in_proportion_to_the_text() -> None:
    memory = NGramMemory(3001, 8)
    memory.remember(torch.randint(3000, (20_000,)), torch.tensor([20_000]))
    assert has_sparse(memory)  # dense, they take 1.6 GB
    assert sum(table.nbytes for order in memory._orders for table in order) < 30e6
    assert memory.probabilities(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()


def test_a_text_too_long_for_the_machine_is_refused_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = NGramMemory(VOCABULARY, 12, "ngram_distillation")
    memory.remember(IDS, torch.tensor(LENGTHS))  # to count them takes less
    monkeypatch.setattr(hardware, "_free_bytes", lambda: 40_000)
    message = (
        "^ngram_distillation: the memory of n-grams needs at least .* of free memory: use a "
        "shorter text or ngram_distillation 0"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            memory(torch.zeros(1, 1, dtype=torch.long))


FOUR = torch.zeros(4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        (FOUR.long(), [4]),
        (FOUR.view(2, 2), [4]),
        (FOUR + VOCABULARY, [4]),
        (FOUR, [3]),
        (FOUR, [5, -1]),
        (FOUR, [1 << 62, 1 << 62, 1 << 62, 1 << 62, 4]),
        (FOUR, [4.0]),
    ],
)
def test_a_state_that_cannot_be_counted_is_refused(
    memory: NGramMemory, text: Tensor, lengths: list[float]
) -> None:
    with pytest.raises(UserError, match="is not one of this vocabulary"):
        memory.check_state(text, torch.tensor(lengths))
    memory.check_state(FOUR, torch.tensor([1, 0, 3]))
