"""Evaluation mode without gradients, and the former mode afterwards."""

import pytest
import torch
from torch import nn

from shakespeare_lm.completion.inference import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_evaluation_inside_and_as_before_outside(training: bool) -> None:
    network = nn.Sequential(nn.Dropout()).train(training)
    with evaluating(network):
        assert not network.training
        assert not network[0].training
    assert network.training is training
    assert network[0].training is training


def test_no_gradients_are_recorded_inside() -> None:
    network = nn.Linear(2, 2)
    with evaluating(network):
        assert torch.is_inference_mode_enabled()
        assert not network(torch.ones(2)).requires_grad
    assert not torch.is_inference_mode_enabled()
    assert network(torch.ones(2)).requires_grad


def test_the_mode_is_restored_after_an_error() -> None:
    network = nn.Dropout()

    def fail() -> None:
        with evaluating(network):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert network.training
    assert not torch.is_inference_mode_enabled()
