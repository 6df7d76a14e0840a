"""The loop of completion: each text grows by the id that was chosen after it."""

import contextlib
import random
from itertools import islice

import pytest
import torch
from torch import nn

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.cuda_graph import generate_graphed
from shakespeare_lm.completion.decoder import CachedDecoder
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.completion.sampling import SamplingOptions, generate
from shakespeare_lm.errors import UserError
from tests.completion.conftest import random_network

GREEDY = SamplingOptions(greedy=True)


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize("options", [GREEDY, SamplingOptions(temperature=1.5, top_k=4)])
def test_graphed_steps_choose_what_generate_chooses(window, options):
    found, prompts = [], [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6]]
    for way, fixed_shape in ((generate, False), (generate_graphed, True)):
        decoder = CachedDecoder(CachedForward(random_network()), 3, window, fixed_shape)
        randoms = [random.Random(seed) for seed in range(3)]
        found.append(list(islice(way(decoder, prompts, options, randoms, 10), 40)))
    assert found[0] == found[1]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("options", [GREEDY, SamplingOptions(), SamplingOptions(top_p=0.9)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_no_text_is_made_of_non_finite_logits(options, value):
    network = random_network()
    torch.nn.init.constant_(network.head.weight, value)
    for way, fixed_shape in ((generate, False), (generate_graphed, True)):
        decoder = CachedDecoder(CachedForward(network), 1, "stride", fixed_shape)
        with pytest.raises(UserError, match=r"computes non-finite numbers .*: choose another"):
            next(way(decoder, [[1, 2]], options, [random.Random(0)], 10))


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_switches_mode_and_gradients_and_restores_them_after_an_error(training):
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(training)
    with contextlib.suppress(KeyboardInterrupt), evaluating(network):
        assert not network.training
        assert not network[1].training
        assert torch.is_inference_mode_enabled()
        raise KeyboardInterrupt
    assert network.training is network[1].training is training
    assert not torch.is_inference_mode_enabled()
