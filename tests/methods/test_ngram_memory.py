"""The n-gram memory: a Kneser-Ney model, which in training has not seen the answer."""

import contextlib
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from torch import Tensor

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods import ngram_memory as module
from shakespeare_lm.methods.ngram_memory import Expected, NGramMemory, leaving_out
from shakespeare_lm.methods.ngrams import NGramModel, discounts

VOCABULARY, ORDER = 5, 4  # the last id is the padding symbol
LENGTHS = [150, 90, 60]


def some_ids(count: int, seed: int = 0) -> Tensor:
    chosen = random.Random(seed).choices(range(VOCABULARY - 1), weights=[8, 4, 2, 1], k=count)
    return torch.tensor(chosen)


def remembering(ids: Tensor) -> NGramMemory:
    memory = NGramMemory(VOCABULARY, ORDER)
    memory.remember(ids, torch.tensor(LENGTHS))
    return memory


def without_own(memory: NGramMemory, ids: Tensor, targets: Tensor | None) -> Expected:
    with leaving_out(memory, targets):
        expected: Expected = memory(ids)
    return expected


def test_it_is_the_ngram_model_of_the_text() -> None:
    train, text = some_ids(sum(LENGTHS)), some_ids(40, seed=1)
    *_, expected = NGramModel(train.numpy(), LENGTHS, VOCABULARY, ORDER).log_probabilities(
        text.numpy(), [40]
    )
    features, highest = remembering(train)(text[None, :-1])
    found = highest[0].gather(1, text[1:, None])[:, 0]
    np.testing.assert_allclose(found, expected[1:], rtol=1e-5)
    torch.testing.assert_close(highest.exp().sum(-1), torch.ones(1, 39))
    roots, totals = features[0].split([ORDER * VOCABULARY, ORDER], dim=-1)
    torch.testing.assert_close((roots[:, -VOCABULARY:] / 4).square().log(), highest[0])
    before = text[3:6].tolist()
    documents = [document.tolist() for document in train.split(LENGTHS)]
    count = sum(d[i : i + 3] == before for d in documents for i in range(len(d) - 3))
    assert totals[5, -1] == pytest.approx(math.log1p(count))


def without(train: list[list[int]], document: int, place: int) -> list[float]:
    """Return the probabilities after a position of the training part, counted anew without the
    n-grams that end at the character that follows it.
    """
    raw = [
        Counter(
            tuple(text[end - size : end])
            for number, text in enumerate(train)
            for end in range(size, len(text) + 1)
            if leave_out is None or (number, end - 1) != leave_out
        )
        for leave_out in (None, (document, place))
        for size in range(1, ORDER + 1)
    ]
    raw, kept = raw[:ORDER], raw[ORDER:]
    below = [1 / VOCABULARY] * VOCABULARY
    for size in range(1, ORDER + 1):
        before = train[document][max(0, place - size + 1) : place]
        if len(before) < size - 1:
            break
        full, now = (_below_highest(counts, size) for counts in (raw, kept))
        taken = discounts(np.array(list(full.values())))
        row = [now.get((*before, symbol), 0) for symbol in range(VOCABULARY)]
        total, lost = sum(row), sum(taken[min(count, 3)] for count in row)
        if total:
            below = [
                (count - taken[min(count, 3)] + lost * lower) / total
                for count, lower in zip(row, below, strict=True)
            ]
    return below


def _below_highest(raw: list[Counter[tuple[int, ...]]], size: int) -> Counter[tuple[int, ...]]:
    if size == ORDER:
        return raw[-1]
    before = defaultdict(set)
    for gram in raw[size]:
        before[gram[1:]].add(gram[0])
    return Counter({gram: len(found) for gram, found in before.items()})


def test_leaving_out_the_own_occurrence_is_counting_anew_without_it() -> None:
    ids = some_ids(sum(LENGTHS))
    memory = remembering(ids)
    for number, text in enumerate(ids.split(LENGTHS)):
        _, found = without_own(memory, text[None, :-1], text[None, 1:])
        train = [document.tolist() for document in ids.split(LENGTHS)]
        for place in range(1, len(text)):
            expected = torch.tensor(without(train, number, place)).log().float()
            torch.testing.assert_close(found[0, place - 1], expected, rtol=1e-4, atol=1e-4)


def test_a_character_that_occurs_once_is_not_expected_where_it_is() -> None:
    ids = torch.tensor([0, 1, 0, 2] * 8)
    ids[21] = 3
    memory = NGramMemory(VOCABULARY, ORDER)
    memory.remember(ids, torch.tensor([32]))
    plain, left_out = (
        without_own(memory, ids[None, :21], own)[1][0, -1, 3] for own in (None, ids[None, 1:22])
    )
    assert plain > math.log(0.1)
    assert left_out < math.log(0.02)


def test_at_the_beginning_of_a_window_only_what_is_certain_is_left_out() -> None:
    ids = some_ids(sum(LENGTHS))
    memory = remembering(ids)
    whole = without_own(memory, ids[None, :-1], ids[None, 1:])[1][0]
    window = without_own(memory, ids[None, 40:60], ids[None, 41:61])[1][0]
    torch.testing.assert_close(window[ORDER - 2 :], whole[40 + ORDER - 2 : 60])
    assert torch.isfinite(window).all()
    assert not torch.equal(window[0], whole[40])


def test_what_is_left_out_ends_with_the_block_and_is_told_to_every_memory() -> None:
    ids = some_ids(sum(LENGTHS))
    nested = torch.nn.ModuleList([torch.nn.ModuleList([remembering(ids)]), remembering(ids)])
    memories = [one for one in nested.modules() if isinstance(one, NGramMemory)]
    window, targets = ids[None, 3:9], ids[None, 4:10]
    plain = [memory(window).log_probabilities for memory in memories]
    inside = []
    with contextlib.suppress(KeyError), leaving_out(nested, targets):
        inside = [memory(window).log_probabilities for memory in memories]
        raise KeyError
    for memory, before, during in zip(memories, plain, inside, strict=True):
        assert not torch.equal(before, during)
        assert torch.equal(memory(window).log_probabilities, before)


def test_its_text_is_its_state() -> None:
    memory = remembering(some_ids(sum(LENGTHS)))
    fresh = NGramMemory(VOCABULARY, ORDER)
    fresh.load_state_dict(memory.state_dict())
    ids = some_ids(12, seed=3)[None]
    assert torch.equal(fresh(ids).features, memory(ids).features)
    assert {name: tensor.dtype for name, tensor in memory.state_dict().items()} == {
        "text": torch.uint8, "lengths": torch.int64,
    }  # fmt: skip
    memory.remember(torch.zeros(30, dtype=torch.long), torch.tensor([30]))
    assert not torch.equal(fresh(ids).features, memory(ids).features)
    assert NGramMemory(300, 2).text.dtype == torch.int32


def test_padding_and_unseen_contexts_leave_the_order_below() -> None:
    memory = remembering(some_ids(sum(LENGTHS)))
    padded = torch.tensor([[4, 4, 0, 1]])
    plain = memory(torch.tensor([[0, 1]]))
    found = memory(padded)
    torch.testing.assert_close(found.log_probabilities[:, 2:], plain.log_probabilities)
    empty = NGramMemory(VOCABULARY, ORDER)(padded)
    torch.testing.assert_close(
        empty.log_probabilities.exp(), torch.full((1, 4, VOCABULARY), 1 / VOCABULARY)
    )


def test_a_text_too_long_for_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = remembering(some_ids(sum(LENGTHS)))
    monkeypatch.setattr(module, "check_memory", _refuse)
    with pytest.raises(UserError, match="a memory of 1-grams"):
        memory(torch.zeros(1, 1, dtype=torch.long))


def _refuse(needed_bytes: float, what: str, advice: str) -> None:
    raise UserError(f"{what}: {advice}")


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        (torch.zeros(4, dtype=torch.long), torch.tensor([4])),
        (torch.zeros(2, 2, dtype=torch.uint8), torch.tensor([4])),
        (torch.full((4,), VOCABULARY, dtype=torch.uint8), torch.tensor([4])),
        (torch.zeros(4, dtype=torch.uint8), torch.tensor([3])),
        (torch.zeros(4, dtype=torch.uint8), torch.tensor([5, -1])),
        (torch.zeros(4, dtype=torch.uint8), torch.tensor([1 << 62, 1 << 62, 1 << 62, 1 << 62, 4])),
        (torch.zeros(4, dtype=torch.uint8), torch.tensor([4.0])),
    ],
)
def test_a_state_that_cannot_be_counted_is_refused(text: Tensor, lengths: Tensor) -> None:
    memory = NGramMemory(VOCABULARY, ORDER)
    with pytest.raises(UserError, match="is not one of this vocabulary"):
        memory.check_state(text, lengths)
    memory.check_state(torch.zeros(4, dtype=torch.uint8), torch.tensor([1, 0, 3]))
