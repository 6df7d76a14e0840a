"""The loop of completion: each text grows by the id that was chosen after it."""

import random
from collections import deque
from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.generation import generate
from shakespeare_lm.completion.sampling import SamplingOptions

CHOICES = 5  # ids 0 to 4; id 5 is the padding symbol
GREEDY = SamplingOptions(greedy=True)


class CountingDecoder:
    """Finds the id after a text's last id the likeliest, and padding likelier than all."""

    context_length = 4

    def __init__(self) -> None:
        self.seen: list[list[list[int]]] = []

    def logits(self, texts: Sequence[deque[int]]) -> Tensor:
        self.seen.append([list(text) for text in texts])
        logits = torch.zeros(len(texts), CHOICES + 1)
        for row, text in enumerate(texts):
            logits[row, (text[-1] + 1) % CHOICES] = 2.0
        logits[:, CHOICES] = 100.0
        return logits


def grown(
    prompts: list[list[int]],
    count: int,
    options: SamplingOptions = GREEDY,
    seeds: Sequence[int] = range(9),
    decoder: CountingDecoder | None = None,
) -> list[list[int]]:
    """Return the first `count` ids that each prompt grows by."""
    randoms = [random.Random(seed) for seed, _ in zip(seeds, prompts, strict=False)]
    decoder = decoder or CountingDecoder()
    steps = islice(generate(decoder, prompts, options, randoms, CHOICES), count)
    return [list(ids) for ids in zip(*steps, strict=True)]


def test_each_text_grows_by_the_id_chosen_after_it() -> None:
    decoder = CountingDecoder()
    assert grown([[0], [3, 1]], 3, decoder=decoder) == [[1, 2, 3], [2, 3, 4]]
    assert decoder.seen == [[[0], [3, 1]], [[0, 1], [3, 1, 2]], [[0, 1, 2], [3, 1, 2, 3]]]


def test_only_the_last_context_length_ids_are_kept() -> None:
    decoder = CountingDecoder()
    prompt = [0, 0, 0, 0, 0, 1, 2, 3]
    grown([prompt], 2, decoder=decoder)
    assert decoder.seen == [[[0, 1, 2, 3]], [[1, 2, 3, 4]]]
    assert len(prompt) == 8  # and the prompt itself is left as it is


def test_it_never_ends() -> None:
    assert grown([[4]], 1000) == [[0, 1, 2, 3, 4] * 200]


@pytest.mark.parametrize("options", [GREEDY, SamplingOptions(temperature=1.0)])
def test_the_padding_symbol_is_excluded_however_likely(options: SamplingOptions) -> None:
    assert {number for ids in grown([[0], [1]], 50, options) for number in ids} <= set(range(5))


def test_each_text_has_its_own_randomness() -> None:
    options = SamplingOptions(temperature=5.0)
    together = grown([[0], [1], [0]], 20, options, seeds=[7, 8, 9])
    alone = [grown([[start]], 20, options, seeds=[seed])[0] for start, seed in ((0, 7), (1, 8))]
    assert together[:2] == alone
    assert together[0] != together[2]


def test_logits_are_computed_when_they_are_asked_for_and_not_before() -> None:
    decoder = CountingDecoder()
    ids = generate(decoder, [[0]], GREEDY, [random.Random(0)], CHOICES)
    assert decoder.seen == []
    next(ids)
    assert len(decoder.seen) == 1
