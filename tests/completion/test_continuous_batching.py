"""Continuous batching: each text gets the logits that it would get alone, whoever comes."""

import random
from collections import deque

import pytest
import torch

from shakespeare_lm.completion.continuous_batching import ContinuousDecoder
from shakespeare_lm.completion.decoder import UncachedDecoder, Window
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.transformer import CausalTransformer


@pytest.mark.parametrize("window", ["stride", "exact"])
def test_texts_that_come_and_go_do_not_change_each_other(
    transformer: CausalTransformer, window: Window
) -> None:
    numbers = random.Random(0)
    decoder = ContinuousDecoder(transformer, window)
    texts: list[deque[int]] = []
    alone: list[UncachedDecoder] = []
    rows: list[int | None] = []
    for _ in range(60):
        kept = [row for row in range(len(texts)) if numbers.random() > 0.1]
        new = numbers.choice([0, 0, 0, 1, 2]) if texts else 1
        begun = [
            deque([numbers.randrange(10) for _ in range(numbers.randint(1, 12))], maxlen=8)
            for _ in range(new)
        ]
        texts = [texts[row] for row in kept] + begun
        alone = [alone[row] for row in kept] + [
            UncachedDecoder(transformer, 8, window) for _ in begun
        ]
        rows = [*kept, *[None] * new]
        if not texts:
            continue
        logits = decoder.logits(texts, rows)
        expected = torch.cat([one.logits([text]) for one, text in zip(alone, texts, strict=True)])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        for text in texts:
            text.append(numbers.randrange(10))


def test_a_bigram_has_no_window() -> None:
    table = BigramTable(5)
    texts = [deque([1, 2]), deque([3])]
    logits = ContinuousDecoder(table).logits(texts, [None, None])
    assert torch.equal(logits, table.table.weight[[2, 3]])
