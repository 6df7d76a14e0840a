"""Predicting a text character by character, and learning from it: the four rules of fair
adaptation, the windows, and n-grams of what was read.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from shakespeare_lm.completion.predictor import Predictor
from shakespeare_lm.completion.recent_ngrams import RecentNGrams
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.sliding_window import predictions
from tests.completion.conftest import random_network

TEXT = [int(i) for i in torch.randint(10, (70,), generator=torch.Generator().manual_seed(3))]
LENGTH = 16  # of the context; so a window moves on after 2 characters


def predictor(network: nn.Module | None = None, **options: bool) -> Predictor:
    network = random_network(context_length=LENGTH) if network is None else network
    return Predictor(network, LENGTH, 10, **options)


def rows(made: Predictor, ids: list[int]) -> np.ndarray:
    return np.stack(list(made.read(ids)))


@pytest.mark.parametrize("options", [{}, {"memory_order": 3}, {"positions": "rotary"}])
def test_without_learning_it_predicts_in_sliding_windows(options: dict) -> None:
    network = random_network(context_length=LENGTH, **options)
    made = predictor(network)
    for text in (TEXT[:60], TEXT[60:]):
        expected = [logits for logits, _ in predictions(network, torch.tensor(text), LENGTH, 2)]
        without_padding = torch.cat(expected)[:, :10].detach().double().log_softmax(-1)
        np.testing.assert_allclose(rows(made, text), without_padding, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"adaptive": True, "ngrams": True}])
def test_a_prediction_sums_to_one_and_depends_on_earlier_characters_alone(options: dict) -> None:
    first = rows(predictor(**options), TEXT)
    np.testing.assert_allclose(np.exp(first).sum(-1), 1.0, rtol=1e-12)
    for changed in (1, 30, 31, 69):
        other = TEXT[:changed] + [(i + 1) % 10 for i in TEXT[changed:]]
        second = rows(predictor(**options), other)
        # The prediction of the changed character itself is number `changed - 1`.
        assert np.array_equal(first[:changed], second[:changed])
        assert changed == 69 or not np.allclose(first[changed], second[changed])


def test_it_learns_in_a_copy_after_it_has_predicted() -> None:
    network = random_network(context_length=LENGTH).train()
    before = copy.deepcopy(network.state_dict())
    text = TEXT[:12] * 40
    frozen, adaptive = rows(predictor(network), text), rows(predictor(network, adaptive=True), text)
    np.testing.assert_allclose(adaptive[0], frozen[0], atol=1e-5)  # nothing to learn from yet
    assert np.abs(adaptive[2] - frozen[2]).max() > 1e-5
    losses = [-found[range(len(found)), text[1:]].mean() for found in (frozen, adaptive)]
    assert losses[1] < losses[0]
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_it_learns_where_gradients_are_switched_off_and_without_a_cache() -> None:
    class Plain(nn.Module):  # maps ids to logits, and says nothing of a cache
        def __init__(self) -> None:
            super().__init__()
            self.network = random_network(context_length=LENGTH)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.network(ids)

    expected, plain = rows(predictor(adaptive=True), TEXT), Plain()
    with torch.inference_mode():
        found = rows(predictor(plain, adaptive=True), TEXT)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_cannot_learn_is_refused() -> None:
    network = random_network(context_length=LENGTH).bfloat16()
    with pytest.raises(UserError, match="learns, which needs float32: leave --dtype out"):
        predictor(network, adaptive=True)
    assert rows(predictor(network), TEXT[:5]).shape == (4, 10)


def test_n_grams_begin_as_the_network_and_learn_what_recurs() -> None:
    ngrams, network = RecentNGrams(4), np.log([0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(ngrams.mix(network), network)
    nats = []
    for character in [3, 1, 2] * 200:
        nats.append(-ngrams.mix(network)[character])
        ngrams.observe(character)
    assert np.mean(nats[:30]) > 1.4
    assert np.mean(nats[-30:]) < 0.1


def test_each_order_backs_off_to_the_one_below_and_the_first_to_the_network() -> None:
    ngrams, network = RecentNGrams(3), np.log([0.5, 0.25, 0.25])
    for character in (0, 1, 0, 2, 0):
        ngrams.mix(network)
        ngrams.observe(character)
    # After 0: 1 twice ago, which has aged, then 2. After (2, 0) and longer: nothing yet.
    after_0 = (np.array([0.0, 0.8, 1.0]) + 2 * np.exp(network)) / (1.8 + 2)
    ((state, found),) = ngrams._orders(np.exp(network))
    np.testing.assert_allclose(np.exp(found), after_0)
    assert state[0] == 1
    ngrams.begin()  # a document's first character has nothing before it
    assert list(ngrams._orders(np.exp(network))) == []


def test_what_the_network_finds_impossible_has_a_finite_logarithm() -> None:
    ngrams = RecentNGrams(2)
    for _ in range(50):
        assert np.isfinite(ngrams.mix(np.array([0.0, -2000.0]))).all()
        ngrams.observe(0)
