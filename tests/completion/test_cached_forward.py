"""Steps with a cache give the logits of a forward pass over the whole window."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.errors import UserError
from shakespeare_lm.kernels.int8 import MOST_ROWS, quantise
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.model.network import Network

NETWORKS = {
    "sinusoidal": {"positions": "sinusoidal"},
    "learned": {"positions": "learned", "norm": "post", "bias": True, "tied_head": True},
    "rotary": {"positions": "rotary", "previous_characters": 0},
    "more_previous_characters_than_context": {"previous_characters": 12},
    "memory": {"memory_order": 3, "previous_characters": 1},
    "longer_memory_than_context": {"memory_order": 12},
    "mixed_memory": {"memory_order": 3, "memory_share": 0.2, "previous_characters": 0},
    "memory_shorter_than_the_lookback": {"memory_order": 2, "previous_characters": 4},
}


def network(**options: object) -> Network:
    torch.manual_seed(0)
    sizes = {"context_length": 8, "num_layers": 2, "num_heads": 2, "d_model": 8}
    more = {"previous_characters": 4}
    made = build_network(11, NetworkOptions(**{**sizes, **more, **options}))
    if isinstance(made, MemoryNetwork):
        made.ngrams.remember(torch.randint(10, (300,)), torch.tensor([200, 100]))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def last_logits(made: Network, windows: list[list[int]]) -> Tensor:
    return torch.stack([made(torch.tensor([window]))[0, -1] for window in windows])


def assert_same(actual: Tensor, expected: Tensor) -> None:
    # The same sums in another order: rounding of logits of order 10 in float32.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def onednn() -> Iterator[Callable[[], bool]]:
    """Return a function that tells whether oneDNN is enabled; restore the flag afterwards."""
    before = torch.backends.mkldnn.enabled
    yield lambda: torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(_enabled=before)


@pytest.mark.parametrize("fixed_shape", [False, True])
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_a_step_equals_forward_at_the_end_of_the_window(options: dict, fixed_shape: bool) -> None:
    made = network(**options)
    cached = CachedForward(made)
    cache = cached.new_cache(3, fixed_shape)
    windows = [[1, 2, 3, 4], [5], []]
    cached.prefill(cache, torch.arange(3), windows)
    for step in range(4):
        new = [step, 9 - step, 2 * step]
        windows = [[*window, character] for window, character in zip(windows, new, strict=True)]
        assert_same(cached.step(cache, torch.tensor(new)), last_logits(made, windows))
    assert max(map(len, windows)) == 8


def test_a_window_can_grow_from_nothing() -> None:
    made = network()
    cached = CachedForward(made)
    cache = cached.new_cache(2)
    cached.prefill(cache, torch.arange(2), [[], []])
    for length in range(1, 9):
        logits = cached.step(cache, torch.tensor([3, 4]))
        assert_same(logits, last_logits(made, [[3] * length, [4] * length]))


def test_prefilling_some_rows_leaves_the_others() -> None:
    made = network()
    cached = CachedForward(made)
    cache = cached.new_cache(3)
    cached.prefill(cache, torch.arange(3), [[1, 2, 3], [4, 5], [6]])
    cached.step(cache, torch.tensor([7, 8, 9]))
    cached.prefill(cache, torch.tensor([2, 0]), [[5, 5, 5, 5, 5], [9]])
    expected = last_logits(made, [[9, 1], [4, 5, 8, 2], [5, 5, 5, 5, 5, 3]])
    assert_same(cached.step(cache, torch.tensor([1, 2, 3])), expected)


def test_equal_windows_are_computed_once() -> None:
    made, shapes = network(), []
    cached = CachedForward(made)
    cache = cached.new_cache(4)
    made.blocks[0].register_forward_pre_hook(lambda _, x: shapes.append(tuple(x[0].shape[:2])))
    cached.prefill(cache, torch.arange(4), [[1, 2], [3, 4], [1, 2], [1, 2]])
    assert shapes == [(2, 2)]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_full_window_cannot_grow(fixed_shape: bool, onednn: Callable[[], bool]) -> None:
    cached = CachedForward(network())
    cache = cached.new_cache(2, fixed_shape)
    cached.prefill(cache, torch.arange(2), [[1] * 8, [2]])
    torch.backends.mkldnn.set_flags(_enabled=True)
    with pytest.raises(UserError, match="a window holds at most 8 characters"):
        cached.step(cache, torch.tensor([1, 1]))
    assert onednn()


def test_the_memory_of_a_cache_is_allocated_once() -> None:
    cached = CachedForward(network())
    cache = cached.new_cache(2)
    before = [layer.data_ptr() for layer in cache.layers]
    for _ in range(3):
        cached.prefill(cache, torch.arange(2), [[1, 2, 3], [4]])
        for _ in range(5):
            cached.step(cache, torch.tensor([5, 6]))
    assert [layer.data_ptr() for layer in cache.layers] == before
    assert cache.layers[0].shape == (2, 2, 2, 8, 4)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float32, False), (torch.float64, True), (torch.bfloat16, True)]
)
def test_a_step_in_float32_runs_without_onednn_and_restores_its_flag(
    enabled: bool, dtype: torch.dtype, kept: bool, onednn: Callable[[], bool]
) -> None:
    made, during = network().to(dtype), []
    cached = CachedForward(made)
    cache = cached.new_cache(1)
    made.blocks[0].register_forward_pre_hook(lambda *_: during.append(onednn()))
    torch.backends.mkldnn.set_flags(_enabled=enabled)
    cached.step(cache, torch.tensor([3]))
    assert during == [enabled and kept]
    assert onednn() is enabled


def test_steps_of_few_texts_in_int8_run_without_onednn(onednn: Callable[[], bool]) -> None:
    made, during = network(d_model=32).bfloat16(), []
    quantise(made)
    cached = CachedForward(made)
    caches = [cached.new_cache(texts) for texts in (1, MOST_ROWS, MOST_ROWS + 1)]
    made.blocks[0].register_forward_pre_hook(lambda *_: during.append(onednn()))
    torch.backends.mkldnn.set_flags(_enabled=True)
    for cache in caches:
        cached.step(cache, torch.full((len(cache.lengths),), 3))
    assert during == [False, False, True]


def test_only_steps_of_fixed_shape_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_steps = []

    def compile(function: Callable[..., Tensor], **_: object) -> Callable[..., Tensor]:
        def compiled(*arguments: object) -> Tensor:
            compiled_steps.append(arguments)
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    made = network()
    for compile_step, fixed_shape in [(True, False), (False, True), (True, True)]:
        assert not compiled_steps
        cached = CachedForward(made, compile_step)
        logits = cached.step(cached.new_cache(1, fixed_shape), torch.tensor([3]))
        assert_same(logits, last_logits(made, [[3]]))
    assert len(compiled_steps) == 1


@pytest.mark.parametrize("training", [True, False])
def test_a_cache_is_as_the_network_stores_keys_and_leaves_it_as_it_was(training: bool) -> None:
    made = network(num_layers=3, dropout=0.5).double().train(training)
    state = torch.get_rng_state()
    cache = CachedForward(made).new_cache(5)
    assert [tuple(layer.shape) for layer in cache.layers] == [(2, 5, 2, 8, 4)] * 3
    assert {layer.dtype for layer in cache.layers} == {torch.float64}
    assert not any(layer.any() for layer in cache.layers)
    assert made.training is training
    assert torch.equal(torch.get_rng_state(), state)
