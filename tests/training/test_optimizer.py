"""The optimizer's options, parameter groups, Muon, and the learning-rate schedule."""

import copy
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training import optimizer as optim
from shakespeare_lm.training.optimizer import (
    MuonAndAdamW,
    OptimizerConfig,
    OptimizerName,
    build_optimizer,
    orthogonalise,
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
        tied_head=tied_head,
    )
    return CausalTransformer(9, config)


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", get_args(OptimizerName))
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(name: OptimizerName, tied: bool) -> None:
    network = small_network(tied_head=tied)
    optimizer = build_optimizer(network, replace(MUON, optimizer=name))
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
    optimizer = build_optimizer(network, ADAMW)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    bias = network.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before * 0.95)
    assert torch.equal(network.bias.detach(), bias)


def test_muon_is_for_the_matrices_inside_blocks() -> None:
    network = small_network()
    optimizer = build_optimizer(network, MUON)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    with_muon = {names[id(p)] for p in optimizer.param_groups[1]["params"]}
    layers = ("query_key_value", "attention.output", "feed_forward.0", "feed_forward.2")
    assert with_muon == {
        name for name in names.values() if any(f"{layer}.weight" in name for layer in layers)
    }
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]


def test_a_muon_step_equals_torchs_muon_and_adamw_side_by_side() -> None:
    ours, theirs = small_network(), small_network()
    optimizer = build_optimizer(ours, MUON)
    matrices = [p for p in theirs.blocks.parameters() if p.ndim == 2]
    inside = set(matrices)
    pair = [
        torch.optim.Muon(matrices, lr=0.25, momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(
            [p for p in theirs.parameters() if p not in inside],
            lr=0.5,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        ),
    ]
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        for one in pair:
            one.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # torch always iterates in bfloat16, which has a relative precision of 2^-8: for three
        # updates with entries of up to 0.35 that is an error of this size.
        tolerance = 0.02 if other in inside else 1e-6
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance, msg=name)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 8), (2, 12, 4), (2, 4, 12)):
        matrices = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalise(matrices).float())
        assert values.max() < 1.3
        # The smallest singular value of a square matrix can be too small to grow in five steps.
        assert values.median() > 0.6
    zeros = orthogonalise(torch.zeros(1, 4, 4))
    assert torch.equal(zeros.float(), torch.zeros(1, 4, 4))


def test_without_fast_bfloat16_the_direction_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    found = {}
    for fast in (True, False):
        monkeypatch.setattr(optim, "has_fast_bfloat16", lambda device_type, fast=fast: fast)
        found[fast] = orthogonalise(matrices)
    assert (found[True].dtype, found[False].dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(found[True].float(), found[False], rtol=0, atol=0.03)


def test_muons_state_survives_a_checkpoint_bit_for_bit() -> None:
    through, straight = small_network(), small_network()
    uninterrupted = build_optimizer(straight, MUON)
    before = build_optimizer(through, MUON)
    for optimizer, network in ((uninterrupted, straight), (before, through)):
        give_gradients(network, 0)
        optimizer.step()
    after = build_optimizer(through, MUON)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for optimizer, network in ((uninterrupted, straight), (after, through)):
        give_gradients(network, 1)
        optimizer.step()
    for mine, other in zip(through.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_learning_rate_set_after_loading_reaches_both_optimizers() -> None:
    network = small_network()
    optimizer = build_optimizer(network, MUON)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = copy.deepcopy(network.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    give_gradients(network, 0)
    optimizer.step()
    assert isinstance(optimizer, MuonAndAdamW)
    for name, parameter in network.state_dict().items():
        assert torch.equal(parameter, before[name]), name


def test_a_parameter_without_a_gradient_is_not_changed() -> None:
    network = small_network()
    optimizer = build_optimizer(network, MUON)
    give_gradients(network, 0)
    frozen = network.blocks[0].attention.output.weight
    frozen.grad = None
    before = frozen.detach().clone()
    optimizer.step()
    assert torch.equal(frozen, before)


def test_muon_refuses_a_network_without_blocks() -> None:
    with pytest.raises(UserError, match="optimizer is muon"):
        build_optimizer(nn.Linear(2, 2), MUON)


def test_sgd_is_plain_gradient_descent() -> None:
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()
    optimizer = build_optimizer(network, replace(SGD, weight_decay=0.0))
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
