"""Parameter groups and the schedule of the learning rate."""

import math

import pytest
import torch

from shakespeare_lm.optim import build_optimizer, learning_rate_factor, parameter_groups
from shakespeare_lm.transformer import CausalTransformer


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(tied: bool) -> None:
    network = CausalTransformer(
        9, 4, num_layers=2, num_heads=1, d_model=8, bias=True, qkv_bias=True, tied_head=tied
    )
    groups = parameter_groups(network, 0.1)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in network.parameters())
    assert len(members) == len(set(members))


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    network = CausalTransformer(9, 4, num_layers=1, num_heads=1, d_model=8, bias=True)
    decayed, undecayed = parameter_groups(network, 0.1)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in undecayed["params"]} == {
        name for name in names.values() if name.endswith("bias") or "norm" in name
    }


def test_adamw_decays_its_first_group_by_the_learning_rate_times_the_weight_decay() -> None:
    network = torch.nn.Linear(3, 2)
    before = network.weight.detach().clone()
    optimizer = build_optimizer("adamw", network, learning_rate=0.5, weight_decay=0.1, beta2=0.99)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    bias = network.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before * 0.95)
    assert torch.equal(network.bias.detach(), bias)


def test_sgd_is_plain_gradient_descent() -> None:
    network = torch.nn.Linear(3, 2)
    before = network.weight.detach().clone()
    optimizer = build_optimizer("sgd", network, learning_rate=0.5, weight_decay=0.0, beta2=0.99)
    for _ in range(2):
        network.weight.grad = torch.ones_like(network.weight)
        optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before - 1.0)


def test_the_schedules_are_these() -> None:
    def factors(schedule: str) -> list[float]:
        return [learning_rate_factor(step, schedule, 2, 6) for step in range(8)]

    half = math.sqrt(0.5)
    assert factors("constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]
    assert factors("linear") == [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert factors("cosine") == pytest.approx(
        [0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0]
    )


def test_without_warm_up_the_first_step_has_the_whole_learning_rate() -> None:
    assert learning_rate_factor(0, "cosine", 0, 10) == 1.0
