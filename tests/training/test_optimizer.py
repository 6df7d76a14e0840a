"""The optimizer's options, its parameter groups, and which of them Muon is for."""

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.optimizer import (
    OptimizerConfig,
    OptimizerName,
    build_optimizer,
    check_optimizer_state,
    parameter_groups,
)

MUON = OptimizerConfig(learning_rate=0.5, muon_learning_rate=0.25, weight_decay=0.1)
ADAMW = replace(MUON, optimizer="adamw")
SGD = replace(MUON, optimizer="sgd")


def small_network(tied_head: bool = False) -> CausalTransformer:
    torch.manual_seed(0)
    config = NetworkConfig(
        context_length=4,
        num_layers=2,
        num_heads=1,
        d_model=8,
        bias=True,
        qkv_bias=True,
        previous_characters=4,
        tied_head=tied_head,
    )
    return CausalTransformer(9, config)


@pytest.mark.parametrize("name", get_args(OptimizerName))
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(name: OptimizerName, tied: bool) -> None:
    network = small_network(tied_head=tied)
    optimizer = build_optimizer(network.parameters(), replace(MUON, optimizer=name), network.blocks)
    members = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in network.parameters())


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    network = small_network()
    decayed, undecayed = parameter_groups(network.parameters(), 0.1)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in undecayed["params"]} == {
        name for name in names.values() if name.endswith("bias") or "norm" in name
    }


def test_adamw_decays_its_first_group_by_the_learning_rate_times_the_weight_decay() -> None:
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()
    optimizer = build_optimizer(network.parameters(), ADAMW, None)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    bias = network.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before * 0.95)
    assert torch.equal(network.bias.detach(), bias)


def test_muon_is_for_the_matrices_inside_blocks() -> None:
    network = small_network()
    optimizer = build_optimizer(network.parameters(), MUON, network.blocks)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    with_muon = {names[id(p)] for p in optimizer.param_groups[1]["params"]}
    layers = ("query_key_value", "attention.output", "feed_forward.0", "feed_forward.2")
    assert with_muon == {
        name for name in names.values() if any(f"{layer}.weight" in name for layer in layers)
    }
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]


def test_muon_refuses_a_network_without_blocks() -> None:
    with pytest.raises(UserError, match="optimizer is muon"):
        build_optimizer(nn.Linear(2, 2).parameters(), MUON, None)
    with pytest.raises(UserError, match="optimizer is muon"):
        build_optimizer(nn.Linear(2, 2).parameters(), MUON, nn.ModuleList([nn.LayerNorm(2)]))


def test_sgd_is_plain_gradient_descent() -> None:
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()
    optimizer = build_optimizer(network.parameters(), replace(SGD, weight_decay=0.0), None)
    for _ in range(2):
        network.weight.grad = torch.ones_like(network.weight)
        optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before - 1.0)


def test_a_schedule_without_an_end_is_refused_and_a_constant_one_needs_none() -> None:
    with pytest.raises(UserError, match="schedule is linear, which needs a last step: set --max_s"):
        OptimizerConfig().total_steps(max_steps=-1)
    assert OptimizerConfig().total_steps(max_steps=9) == 9
    assert OptimizerConfig(decay_steps=7).total_steps(max_steps=-1) == 7
    assert OptimizerConfig(decay_steps=7).total_steps(max_steps=9) == 7
    OptimizerConfig(schedule="constant").total_steps(max_steps=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a value > 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan: expected a value > 0"),
        ({"muon_learning_rate": -1.0}, "muon_learning_rate is -1.0: expected a value > 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0: expected a value >= 0"),
        ({"beta2": 1.0}, "beta2 is 1.0: expected 0 <= beta2 < 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1: expected a value >= 0"),
        ({"decay_steps": 0}, "decay_steps is 0: expected a value >= 1"),
        ({"restart_step": 0}, "restart_step is 0: expected a value >= 1"),
        ({"optimizer": "adam"}, "optimizer is 'adam': choose from: muon, adamw, sgd"),
        ({"schedule": "step"}, "schedule is 'step': choose from: cosine, linear, constant"),
        ({"learning_rate": "0.1"}, "learning_rate is '0.1': expected float"),
        ({"warmup_steps": True}, "warmup_steps is 'True': expected int"),
        ({"decay_steps": 1.5}, "decay_steps is '1.5': expected int or None"),
    ],
)
def test_options_out_of_range_or_of_another_type_are_refused_by_name(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**options)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_parameters_beside_the_network_are_trained_and_frozen_ones_are_not(
    name: OptimizerName,
) -> None:
    network, probe = small_network(), nn.Linear(8, 2)
    network.embedding.weight.requires_grad_(False)
    both = [*network.parameters(), *probe.parameters()]
    optimizer = build_optimizer(both, replace(MUON, optimizer=name), network.blocks)
    members = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert members == {id(p) for p in both} - {id(network.embedding.weight)}
    if name == "muon":  # for matrices in the blocks alone
        assert id(probe.weight) not in {id(p) for p in optimizer.param_groups[1]["params"]}


def test_a_state_of_other_weights_is_refused() -> None:
    network = small_network()
    optimizer = build_optimizer(network.parameters(), MUON, network.blocks)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    check_optimizer_state(optimizer)
    parameter = network.embedding.weight
    optimizer.state[parameter]["exp_avg"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"exp_avg of shape \(3,\) for weights of shape \(9, 8\)"):
        check_optimizer_state(optimizer)
