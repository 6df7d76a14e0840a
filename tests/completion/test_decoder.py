"""Cached and uncached decoding give the same logits; cached, each character is read once. With
continuous batching, each text gets the logits that it would get alone.
"""

import random
from collections import deque

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.decoder import (
    CachedDecoder,
    ContinuousDecoder,
    Decoder,
    UncachedDecoder,
    Window,
    characters_kept,
)
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network
from tests.completion.conftest import NETWORKS, assert_same, random_network

BIGRAM = BigramTable(11, NetworkConfig(network="bigram", context_length=8))


def cached(network: Network, batch: int, window: Window = "stride", **options: bool) -> Decoder:
    return CachedDecoder(CachedForward(network), batch, window, **options)


def uncached(network: Network, window: Window) -> UncachedDecoder:
    return UncachedDecoder(network, network.config.context_length, window)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(10, (length,), generator=generator).tolist() for length in lengths]


def grow(decoder: Decoder, texts: list[list[int]], steps: int = 30) -> Tensor:
    """Return the logits of each step, `[steps, batch, vocab]`; the texts grow by ids that are the
    same for every decoder.
    """
    numbers = random.Random(5)
    windows = [deque(text, maxlen=decoder.context_length) for text in texts]
    seen = []
    for _ in range(steps):
        seen.append(decoder.logits(windows))
        for window in windows:
            window.append(numbers.randrange(10))
    return torch.stack(seen)


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_cached_equals_uncached(options, window):
    network = random_network(**options)
    # Shorter than, as long as, and longer than the context, one character, and equal ones.
    for lengths in [(1,), (20,), (3, 1, 8, 20, 3), (4, 4)]:
        texts = prompts(*lengths)
        whole = grow(uncached(network, window), texts)
        for fixed_shape in (False, True):
            decoder = cached(network, len(texts), window, fixed_shape=fixed_shape)
            assert_same(grow(decoder, texts), whole)


def test_uncached_logits_are_those_of_the_window_by_hand():
    assert [characters_kept("stride", n) for n in (1, 2, 7, 256)] == [1, 1, 3, 128]
    assert [characters_kept("exact", n) for n in (1, 2, 7, 256)] == [1, 2, 7, 256]
    network, (text,) = random_network(), prompts(6)
    exact, stride = uncached(network, "exact"), uncached(network, "stride")
    window = deque(text, maxlen=8)
    for step, length_of_stride in enumerate([6, 7, 8, 4, 5, 6, 7, 8, 4, 5, 6, 7]):
        whole = torch.tensor([list(window)])
        assert torch.equal(exact.logits([window]), network(whole)[:, -1])
        assert torch.equal(stride.logits([window]), network(whole[:, -length_of_stride:])[:, -1])
        window.append(step % 10)


def shapes_read(texts: list[list[int]], steps: int) -> list[tuple]:
    """Return the `(batch, time)` of every input of the first block."""
    network, shapes = random_network(), []
    decoder = cached(network, len(texts))
    network.blocks[0].register_forward_pre_hook(lambda _, x: shapes.append(tuple(x[0].shape[:2])))
    grow(decoder, texts, steps)
    return shapes


def test_each_character_is_read_once_while_the_window_lasts_and_equal_prompts_too():
    # The prompt without its last character and four steps; when the window is full, the newer
    # half of it, and five steps.
    expected = [(1, time) for time in (4, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1)]
    assert shapes_read(prompts(5), steps=9) == expected
    a, b = prompts(5, 5)
    assert shapes_read([a, b, a, a], steps=1) == [(2, 4), (4, 1)]


def test_a_bigram_decodes_in_every_way():
    texts = prompts(3, 20)
    expected = BIGRAM.table.weight[[texts[0][-1], texts[1][-1]]]
    assert torch.equal(grow(uncached(BIGRAM, "exact"), texts, steps=1)[0], expected)
    windows = [deque(text, maxlen=8) for text in texts]
    assert torch.equal(ContinuousDecoder(BIGRAM).logits(windows, [None, None]), expected)


@pytest.mark.parametrize("window", ["stride", "exact"])
def test_texts_that_come_and_go_do_not_change_each_other(window):
    numbers, network = random.Random(0), random_network()
    decoder = ContinuousDecoder(network, window)
    texts: list[deque[int]] = []
    alone: list[UncachedDecoder] = []
    for _ in range(60):
        kept = [row for row in range(len(texts)) if numbers.random() > 0.1]
        new = numbers.choice([0, 0, 0, 1, 2]) if texts else 1
        lengths = [numbers.randint(1, 12) for _ in range(new)]
        begun = [deque([numbers.randrange(10) for _ in range(n)], maxlen=8) for n in lengths]
        texts = [texts[row] for row in kept] + begun
        alone = [alone[row] for row in kept] + [uncached(network, window) for _ in begun]
        if not texts:
            continue
        logits = decoder.logits(texts, [*kept, *[None] * new])
        expected = [one.logits([text]) for one, text in zip(alone, texts, strict=True)]
        assert_same(logits, torch.cat(expected))
        for text in texts:
            text.append(numbers.randrange(10))


@pytest.mark.parametrize("network", [torch.nn.Embedding(5, 5), Network(5, NetworkConfig())])
def test_a_network_without_a_cache_is_refused(network):
    with pytest.raises(UserError, match=f"the network {type(network).__name__} has no key-val"):
        ContinuousDecoder(network)
