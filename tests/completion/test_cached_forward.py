"""How a step runs: without oneDNN where that is faster, compiled, in evaluation mode. That steps
give the logits of the whole window is shown in `test_decoder.py`.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion import cached_forward
from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.errors import UserError
from shakespeare_lm.kernels.int8 import MOST_ROWS, quantise
from tests.completion.conftest import assert_same, random_network


@pytest.fixture
def onednn():
    """Return a function that tells whether oneDNN is enabled; restore the flag afterwards."""
    before = torch.backends.mkldnn.enabled
    yield lambda: torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(_enabled=before)


def quantised(network: torch.nn.Module) -> torch.nn.Module:
    quantise(network.bfloat16())
    return network


def test_the_flag_of_onednn_is_restored_after_an_error(onednn):
    forward = CachedForward(random_network())
    cache = forward.new_cache(2)
    forward.prefill(cache, torch.arange(2), [[1] * 8, [2]])
    torch.backends.mkldnn.set_flags(_enabled=True)
    with pytest.raises(UserError, match="a window holds at most 8 characters"):
        forward.step(cache, torch.tensor([1, 1]))
    assert onednn()


def test_the_last_of_steps_in_several_threads_restores_the_flag(onednn):
    torch.backends.mkldnn.set_flags(_enabled=True)
    first, second = cached_forward._without_onednn(), cached_forward._without_onednn()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not onednn()  # the second still runs
    second.__exit__(None, None, None)
    assert onednn()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("convert", "texts", "kept"),
    [
        (torch.nn.Module.float, 1, False),
        (torch.nn.Module.double, 1, True),
        (torch.nn.Module.bfloat16, 1, True),
        # In int8, of few texts.
        (quantised, 1, False),
        (quantised, MOST_ROWS, False),
        (quantised, MOST_ROWS + 1, True),
    ],
)
def test_steps_that_onednn_slows_down_run_without_it(enabled, convert, texts, kept, onednn):
    network, during = convert(random_network(d_model=32)), []
    forward = CachedForward(network)
    network.blocks[0].register_forward_pre_hook(lambda *_: during.append(onednn()))
    torch.backends.mkldnn.set_flags(_enabled=enabled)
    forward.step(forward.new_cache(texts), torch.full((texts,), 3))
    assert during == [enabled and kept]
    assert onednn() is enabled


def test_only_steps_of_fixed_shape_are_compiled(monkeypatch):
    compiled_steps = []

    def compile(function: Callable[..., Tensor], **_: object) -> Callable[..., Tensor]:
        return lambda *arguments: compiled_steps.append(1) or function(*arguments)

    monkeypatch.setattr(torch, "compile", compile)
    network = random_network()
    for compile_step, fixed_shape in [(True, False), (False, True), (True, True)]:
        assert not compiled_steps
        forward = CachedForward(network, compile_step)
        with evaluating(network):
            logits = forward.step(forward.new_cache(1, fixed_shape), torch.tensor([3]))
            assert_same(logits, network(torch.tensor([[3]]))[:, -1])
    assert len(compiled_steps) == 1


def test_a_cache_of_fixed_shape_has_its_memory_and_leaves_the_network_as_it_was():
    network, state = random_network(num_layers=3, dropout=0.5).double(), torch.get_rng_state()
    for training in (True, False):
        cache = CachedForward(network.train(training)).new_cache(5, fixed_shape=True)
        assert [tuple(layer.shape) for layer in cache.layers] == [(2, 5, 2, 8, 4)] * 3
        assert {layer.dtype for layer in cache.layers} == {torch.float64}
        assert cache.lengths == [0] * 5
        assert network.training is training
    assert torch.equal(torch.get_rng_state(), state)
