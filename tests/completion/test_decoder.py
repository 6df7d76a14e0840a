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
from shakespeare_lm.model.transformer import CausalTransformer

CONTEXT_LENGTH = 8


def network(**options: object) -> CausalTransformer:
    torch.manual_seed(0)
    sizes = {"context_length": CONTEXT_LENGTH, "num_layers": 2, "num_heads": 2, "d_model": 8}
    more = {"previous_characters": 4}
    made = CausalTransformer(11, NetworkConfig(**{**sizes, **more, **options}))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def cached(made: CausalTransformer, batch: int, window: Window, **options: bool) -> CachedDecoder:
    return CachedDecoder(CachedForward(made), batch, window, **options)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(10, (length,), generator=generator).tolist() for length in lengths]


def grow(decoder: Decoder, texts: list[list[int]], steps: int = 30) -> list[Tensor]:
    """Return the logits of each step; the texts grow by ids that are the same for every decoder."""
    generator = torch.Generator().manual_seed(5)
    windows = [deque(text, maxlen=decoder.context_length) for text in texts]
    seen = []
    for _ in range(steps):
        seen.append(decoder.logits(windows))
        for window in windows:
            window.append(int(torch.randint(10, (), generator=generator)))
    return seen


NETWORKS = [
    {"positions": "sinusoidal"},
    {"positions": "learned", "norm": "post", "bias": True, "tied_head": True},
    {"positions": "rotary", "previous_characters": 0},
    {"previous_characters": 12},
]
# Shorter than, as long as, and longer than the context, one character, and equal ones.
LENGTHS = [(1,), (5,), (8,), (20,), (3, 1, 8, 20, 3), (4, 4)]


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("options", NETWORKS)
def test_cached_equals_uncached(options: dict, lengths: tuple[int, ...], window: Window) -> None:
    made, texts = network(**options), prompts(*lengths)
    incremental = grow(cached(made, len(texts), window), texts)
    whole = grow(UncachedDecoder(made, CONTEXT_LENGTH, window), texts)
    for one, other in zip(incremental, whole, strict=True):
        # The same sums in another order: rounding of logits of order 10.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", ["stride", "exact"])
def test_steps_of_fixed_shape_give_the_same_logits(window: Window) -> None:
    made, texts = network(), prompts(3, 1, 8)
    fixed = grow(cached(made, 3, window, fixed_shape=True), texts)
    free = grow(cached(made, 3, window), texts)
    for one, other in zip(fixed, free, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_uncached_logits_are_those_of_the_window_by_hand() -> None:
    made, (text,) = network(), prompts(6)
    exact = UncachedDecoder(made, CONTEXT_LENGTH, "exact")
    stride = UncachedDecoder(made, CONTEXT_LENGTH, "stride")
    window = deque(text, maxlen=CONTEXT_LENGTH)
    lengths_of_stride = []
    for step in range(12):
        whole = torch.tensor([list(window)])
        assert torch.equal(exact.logits([window]), made(whole)[:, -1])
        lengths_of_stride.append([6, 7, 8, 4, 5, 6, 7, 8, 4, 5, 6, 7][step])
        expected = made(whole[:, -lengths_of_stride[-1] :])[:, -1]
        assert torch.equal(stride.logits([window]), expected)
        window.append(step % 10)


def test_a_stride_keeps_half_of_the_window_and_exact_all() -> None:
    assert [characters_kept("stride", n) for n in (1, 2, 7, 256)] == [1, 1, 3, 128]
    assert [characters_kept("exact", n) for n in (1, 2, 7, 256)] == [1, 2, 7, 256]


@pytest.mark.parametrize("context_length", [1, 2, 3])
def test_the_smallest_contexts_work(context_length: int) -> None:
    made = network(context_length=context_length, num_layers=1, num_heads=1, d_model=4)
    for window in ("stride", "exact"):
        incremental = grow(cached(made, 2, window), prompts(1, 2))
        whole = grow(UncachedDecoder(made, context_length, window), prompts(1, 2))
        torch.testing.assert_close(
            torch.stack(incremental), torch.stack(whole), rtol=1e-4, atol=1e-4
        )


def shapes_read(made: CausalTransformer, texts: list[list[int]], steps: int) -> list[tuple]:
    """Return the `(batch, time)` of every input of the first block."""
    shapes = []
    decoder = cached(made, len(texts), "stride")
    made.blocks[0].register_forward_pre_hook(lambda _, x: shapes.append(tuple(x[0].shape[:2])))
    grow(decoder, texts, steps)
    return shapes


def test_each_character_is_read_once_while_the_window_lasts() -> None:
    read = [time for _, time in shapes_read(network(), prompts(5), steps=9)]
    # The prompt without its last character and four steps; when the window is full, the newer
    # half of it, and five steps.
    assert read == [4, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1]


def test_equal_prompts_are_read_once() -> None:
    a, b = prompts(5, 5)
    assert shapes_read(network(), [a, b, a, a], steps=1) == [(2, 4), (4, 1)]


def test_the_cache_is_allocated_once() -> None:
    decoder = cached(network(), 2, "stride")
    before = [layer.data_ptr() for layer in decoder.cache.layers]
    grow(decoder, prompts(2, 5), steps=40)
    assert [layer.data_ptr() for layer in decoder.cache.layers] == before
    assert decoder.cache.layers[0].shape == (2, 2, 2, CONTEXT_LENGTH, 4)


@pytest.mark.parametrize("training", [True, False])
def test_decoding_uses_evaluation_mode_and_restores_the_mode(training: bool) -> None:
    made = network(dropout=0.9).train(training)
    decoders = (cached(made, 1, "stride"), UncachedDecoder(made, CONTEXT_LENGTH, "stride"))
    one, other = (torch.stack(grow(decoder, prompts(3), steps=5)) for decoder in decoders)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # dropout would differ
    assert not one.requires_grad
    assert not other.requires_grad
    assert made.training is training


def test_uncached_decoding_works_with_any_network() -> None:
    table = BigramTable(11, NetworkConfig(network="bigram", context_length=8))
    texts = prompts(3, 20)
    (logits,) = grow(UncachedDecoder(table, CONTEXT_LENGTH, "exact"), texts, steps=1)
    assert torch.equal(logits, table.table.weight[[texts[0][-1], texts[1][-1]]])


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
    table = BigramTable(5, NetworkConfig(network="bigram"))
    texts = [deque([1, 2]), deque([3])]
    logits = ContinuousDecoder(table).logits(texts, [None, None])
    assert torch.equal(logits, table.table.weight[[2, 3]])


def test_a_network_without_a_cache_is_refused() -> None:
    for network in (torch.nn.Embedding(5, 5), Network(5, NetworkConfig())):
        with pytest.raises(UserError, match=f"the network {type(network).__name__} has no key-val"):
            ContinuousDecoder(network)
