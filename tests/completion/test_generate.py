"""The loop of completion: each text grows by the id that was chosen after it."""

import contextlib
import random
from collections import deque
from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.cuda_graph import generate_graphed
from shakespeare_lm.completion.decoder import CachedDecoder
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.completion.sampling import SamplingOptions, generate
from tests.completion.conftest import random_network

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


def grown(prompts: list[list[int]], count: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Return the first `count` ids that each prompt grows by, and what the decoder was given."""
    decoder, randoms = CountingDecoder(), [random.Random(0)] * len(prompts)
    steps = islice(generate(decoder, prompts, GREEDY, randoms, CHOICES), count)
    assert decoder.seen == []  # nothing is computed before it is asked for
    return [list(ids) for ids in zip(*steps, strict=True)], decoder.seen


def test_each_text_grows_by_the_id_chosen_after_it():
    ids, seen = grown([[0], [3, 1]], 3)
    assert ids == [[1, 2, 3], [2, 3, 4]]
    assert seen == [[[0], [3, 1]], [[0, 1], [3, 1, 2]], [[0, 1, 2], [3, 1, 2, 3]]]


def test_only_the_last_context_length_ids_are_kept_and_the_loop_never_ends():
    prompt = [0, 0, 0, 0, 0, 1, 2, 3]
    ids, seen = grown([prompt], 1000)
    assert seen[:2] == [[[0, 1, 2, 3]], [[1, 2, 3, 4]]]
    assert len(prompt) == 8  # and the prompt itself is left as it is
    assert ids == [[4, 0, 1, 2, 3] * 200]


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
