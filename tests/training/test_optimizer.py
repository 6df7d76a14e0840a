"""The optimizer's options, its parameter groups, and the learning rate at each step."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.optimizer import (
    OPTIMIZERS,
    OptimizerConfig,
    build_optimizer,
    check_optimizer_state,
)
from shakespeare_lm.training.schedule import learning_rate_factor
from tests.conftest import logged
from tests.training.conftest import RUN

MUON = OptimizerConfig(learning_rate=0.5, muon_learning_rate=0.25, weight_decay=0.1)
ADAMW, SGD = replace(MUON, optimizer="adamw"), replace(MUON, optimizer="sgd", weight_decay=0.0)


def small_network(tied_head: bool = False) -> CausalTransformer:
    options = {"bias": True, "qkv_bias": True, "previous_characters": 4, "tied_head": tied_head}
    return CausalTransformer(9, NetworkConfig(num_layers=2, num_heads=1, d_model=8, **options))


def names_in(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[set[str]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(name, tied):
    # Those beside the network are trained too, and frozen ones are not.
    network = small_network(tied_head=tied)
    both = nn.ModuleDict({"network": network, "probe": nn.Linear(8, 2)})
    network.previous_embeddings[0].weight.requires_grad_(False)
    optimizer = build_optimizer(both.parameters(), replace(MUON, optimizer=name), network.blocks)
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in both.parameters() if p.requires_grad)


def test_matrices_decay_and_biases_and_norms_do_not():
    network = small_network()
    optimizer = build_optimizer(network.parameters(), ADAMW, None)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [group["name"] for group in optimizer.param_groups] == ["matrices", "others"]
    _, undecayed = names_in(optimizer, network)
    names = [name for name, _ in network.named_parameters()]
    assert undecayed == {name for name in names if name.endswith("bias") or "norm" in name}


def test_muon_is_for_the_matrices_inside_blocks():
    network = small_network()
    optimizer = build_optimizer(network.parameters(), MUON, network.blocks)
    inside = [name for name, p in network.named_parameters() if "blocks" in name and p.ndim == 2]
    assert names_in(optimizer, network)[1] == set(inside)
    assert len(inside) == 2 * 4
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]
    assert [group["name"] for group in optimizer.param_groups] == ["others", "muon"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    for blocks in (None, nn.ModuleList([nn.LayerNorm(2)])):
        with pytest.raises(UserError, match="optimizer is muon, which needs a transformer: use ad"):
            build_optimizer(network.parameters(), MUON, blocks)


@pytest.mark.parametrize(("config", "change"), [(SGD, -0.5), (ADAMW, -0.5 - 0.05)])
def test_a_step_is_that_of_the_formula(config, change):
    network = nn.Linear(3, 2)
    nn.init.ones_(network.weight)
    optimizer = build_optimizer(network.parameters(), config, None)
    network.weight.grad = torch.ones_like(network.weight)
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), torch.full((2, 3), 1 + change))


def test_a_state_of_other_weights_is_refused():
    network = small_network()
    optimizer = build_optimizer(network.parameters(), MUON, network.blocks)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    check_optimizer_state(optimizer)
    optimizer.state[network.embedding.weight]["exp_avg"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"exp_avg of shape \(3,\) for weights of shape \(9, 8\)"):
        check_optimizer_state(optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a value > 0"),
        ({"muon_learning_rate": -1.0}, "muon_learning_rate is -1.0: expected a value > 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0: expected a value >= 0"),
        ({"beta2": 1.0}, "beta2 is 1.0: expected 0 <= beta2 < 1"),
        ({"warmup_steps": -1}, "warmup_steps is -1: expected a value >= 0"),
        ({"decay_steps": 0}, "decay_steps is 0: expected a value >= 1"),
        ({"restart_step": 0}, "restart_step is 0: expected a value >= 1"),
        ({"optimizer": "adam"}, "optimizer is 'adam': choose from: muon, adamw, sgd"),
        ({"schedule": "step"}, "schedule is 'step': choose from: cosine, linear, constant"),
        ({"decay_steps": 1.5}, "decay_steps is '1.5': expected int or None"),
    ],
)
def test_options_out_of_range_or_of_another_type_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**options)


def test_a_schedule_without_an_end_is_refused_and_a_constant_one_needs_none():
    with pytest.raises(UserError, match="schedule is linear, which needs a last step: set --max_s"):
        OptimizerConfig().total_steps(max_steps=-1)
    assert OptimizerConfig().total_steps(max_steps=9) == 9
    for max_steps in (-1, 9):
        assert OptimizerConfig(decay_steps=7).total_steps(max_steps) == 7
    OptimizerConfig(schedule="constant").total_steps(max_steps=-1)


UP, DOWN = math.sqrt(0.5) / 2 + 0.5, 0.5 - math.sqrt(0.5) / 2


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({"schedule": "constant"}, [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ({"schedule": "cosine"}, [0.5, 1, 1, UP, 0.5, DOWN, 0, 0]),
        ({"schedule": "cosine", "warmup_steps": 0, "decay_steps": 2}, [1, 0.5, 0, 0, 0, 0, 0, 0]),
        # Falling to zero twice, the second time from half.
        ({"schedule": "constant", "restart_step": 4}, [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear", "restart_step": 4}, [0.5, 1, 1, 0.5, 0.5, 0.25, 0, 0]),
        ({"schedule": "cosine", "restart_step": 4}, [0.5, 1, 1, 0.5, 0.5, 0.25, 0, 0]),
    ],
)
def test_each_schedule_has_these_factors(options, factors):
    config = OptimizerConfig(**{"warmup_steps": 2, **options})
    total_steps = config.total_steps(6)
    found = [learning_rate_factor(step, config, total_steps) for step in range(8)]
    assert found == pytest.approx(factors)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--max_epochs=2", "--max_steps=50"], 50),
        (["--max_epochs=2", "--limit_train_batches=6"], 12),
        (["--max_epochs=1", "--limit_train_batches=0.5"], 17),
        (["--max_epochs=1", "--accumulate_grad_batches=4"], 9),
    ],
)
def test_the_schedule_ends_with_the_run(tiny_fit, options, steps):
    cli = tiny_fit(*options, "--model.schedule=linear", "--model.warmup_steps=0",
                   "--sample.max_new_tokens=0", "--pictures=false")  # fmt: skip
    assert cli.trainer.global_step == steps
    rates = logged(RUN, "learning_rate")
    assert rates[steps] == pytest.approx(rates[1] / steps, rel=1e-5)
