"""Steps that sample by themselves choose what the loop of completion chooses."""

import random
from itertools import islice

import pytest
import torch

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.cuda_graph import generate_graphed
from shakespeare_lm.completion.decoder import CachedDecoder, Window
from shakespeare_lm.completion.generation import generate
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.model.transformer import CausalTransformer

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize(
    "options", [SamplingOptions(greedy=True), SamplingOptions(temperature=1.5, top_k=4)]
)
def test_the_ids_are_those_of_generate(
    transformer: CausalTransformer, window: Window, options: SamplingOptions
) -> None:
    found = []
    for way, fixed_shape in ((generate, False), (generate_graphed, True)):
        decoder = CachedDecoder(CachedForward(transformer), 3, window, fixed_shape)
        randoms = [random.Random(seed) for seed in range(3)]
        found.append(list(islice(way(decoder, PROMPTS, options, randoms, 10), 40)))
    assert found[0] == found[1]
    assert not torch.is_inference_mode_enabled()
