"""What has been read is not read again, and no logits change by it."""

from collections import deque

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.decoder import CachedReader, WholeReader, Window, characters_kept
from shakespeare_lm.errors import UserError
from shakespeare_lm.network.transformer import CausalTransformer

CONTEXT_LENGTH = 8


def network(**options: object) -> CausalTransformer:
    torch.manual_seed(0)
    defaults = {"num_layers": 2, "num_heads": 2, "d_model": 8}
    made = CausalTransformer(11, CONTEXT_LENGTH, **{**defaults, **options})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(10, (length,), generator=generator).tolist() for length in lengths]


def grow(
    reader: CachedReader | WholeReader, texts: list[list[int]], steps: int = 30
) -> list[Tensor]:
    """Return the logits of each step; the texts grow by ids that are the same for every reader."""
    generator = torch.Generator().manual_seed(5)
    windows = [deque(text, maxlen=reader.context_length) for text in texts]
    seen = []
    for _ in range(steps):
        seen.append(reader.logits(windows))
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
    cached = grow(CachedReader(made, len(texts), window), texts)
    whole = grow(WholeReader(made, CONTEXT_LENGTH, window), texts)
    for one, other in zip(cached, whole, strict=True):
        # The same sums in another order: rounding of logits of order 10.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", ["stride", "exact"])
def test_steps_of_one_shape_equal_those_of_any(window: Window) -> None:
    made, texts = network(), prompts(3, 1, 8)
    fixed = grow(CachedReader(made, 3, window, fixed_shape=True), texts)
    free = grow(CachedReader(made, 3, window), texts)
    for one, other in zip(fixed, free, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_uncached_logits_are_those_of_the_window_by_hand() -> None:
    made, (text,) = network(), prompts(6)
    exact = WholeReader(made, CONTEXT_LENGTH, "exact")
    stride = WholeReader(made, CONTEXT_LENGTH, "stride")
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
    torch.manual_seed(0)
    made = CausalTransformer(11, context_length, num_layers=1, num_heads=1, d_model=4).eval()
    torch.nn.init.normal_(made.head.weight)
    for window in ("stride", "exact"):
        cached = grow(CachedReader(made, 2, window), prompts(1, 2))
        whole = grow(WholeReader(made, context_length, window), prompts(1, 2))
        torch.testing.assert_close(torch.stack(cached), torch.stack(whole), rtol=1e-4, atol=1e-4)


def shapes_read(made: CausalTransformer, texts: list[list[int]], steps: int) -> list[tuple]:
    """Return the `(batch, time)` of everything that the first block reads."""
    shapes = []
    made.blocks[0].register_forward_pre_hook(lambda _, x: shapes.append(tuple(x[0].shape[:2])))
    grow(CachedReader(made, len(texts), "stride"), texts, steps)
    return shapes


def test_each_character_is_read_once_while_the_window_lasts() -> None:
    read = [time for _, time in shapes_read(network(), prompts(5), steps=9)]
    # The prompt but its last character; four steps; when full, half of it; and on.
    assert read == [4, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1]


def test_equal_prompts_are_read_once() -> None:
    a, b = prompts(5, 5)
    assert shapes_read(network(), [a, b, a, a], steps=1) == [(2, 4), (4, 1)]


def test_a_full_window_cannot_grow() -> None:
    made = network()
    cache = made.new_cache(1)
    for _ in range(CONTEXT_LENGTH):
        made.step(cache, torch.tensor([1]))
    with pytest.raises(UserError, match="a window holds at most 8 characters"):
        made.step(cache, torch.tensor([1]))


def test_the_cache_is_allocated_once() -> None:
    made = network()
    reader = CachedReader(made, 2, "stride")
    before = [layer.data_ptr() for layer in reader.cache.layers]
    grow(reader, prompts(2, 5), steps=40)
    assert [layer.data_ptr() for layer in reader.cache.layers] == before
    assert reader.cache.layers[0].shape == (2, 2, 2, CONTEXT_LENGTH, 4)


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_onednn_as_it_was(enabled: bool) -> None:
    before = torch.backends.mkldnn.set_flags(_enabled=enabled)[0]
    try:
        grow(CachedReader(network(), 1, "stride"), prompts(3), steps=2)
        assert torch.backends.mkldnn.set_flags(_enabled=enabled)[0] is enabled
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before)
