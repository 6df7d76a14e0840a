"""Muon: its steps are those of torch's Muon and AdamW, and one state holds both."""

import copy

import torch
from torch import nn

from shakespeare_lm.methods.muon import Muon, MuonAndAdamW
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer


def small_network() -> CausalTransformer:
    torch.manual_seed(0)
    config = NetworkConfig(
        context_length=4,
        num_layers=2,
        num_heads=1,
        d_model=8,
        bias=True,
        qkv_bias=True,
        previous_characters=4,
    )
    return CausalTransformer(9, config)


def both_for(network: CausalTransformer) -> MuonAndAdamW:
    """Return Muon for the matrices in the blocks, and AdamW for the rest."""
    matrices = [p for p in network.blocks.parameters() if p.ndim == 2]
    inside = set(matrices)
    others = [p for p in network.parameters() if p not in inside]
    return MuonAndAdamW(
        torch.optim.AdamW(others, lr=0.5, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
        Muon(matrices, lr=0.25, weight_decay=0.1),
    )


def give_gradients(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_a_muon_step_equals_torchs_muon_and_adamw_side_by_side() -> None:
    ours, theirs = small_network(), small_network()
    optimizer = both_for(ours)
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


def test_muons_state_survives_a_checkpoint_bit_for_bit() -> None:
    through, straight = small_network(), small_network()
    uninterrupted = both_for(straight)
    before = both_for(through)
    for optimizer, network in ((uninterrupted, straight), (before, through)):
        give_gradients(network, 0)
        optimizer.step()
    after = both_for(through)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for optimizer, network in ((uninterrupted, straight), (after, through)):
        give_gradients(network, 1)
        optimizer.step()
    for mine, other in zip(through.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_learning_rate_set_after_loading_reaches_both_optimizers() -> None:
    network = small_network()
    optimizer = both_for(network)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = copy.deepcopy(network.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    give_gradients(network, 0)
    optimizer.step()
    for name, parameter in network.state_dict().items():
        assert torch.equal(parameter, before[name]), name


def test_a_parameter_without_a_gradient_is_not_changed() -> None:
    network = small_network()
    optimizer = both_for(network)
    give_gradients(network, 0)
    frozen = network.blocks[0].attention.output.weight
    frozen.grad = None
    before = frozen.detach().clone()
    optimizer.step()
    assert torch.equal(frozen, before)


def test_the_closure_computes_the_gradients_of_the_step() -> None:
    network = small_network()
    optimizer = both_for(network)
    before = copy.deepcopy(network.state_dict())

    def closure() -> float:
        give_gradients(network, 0)
        return 2.5

    assert optimizer.step(closure) == 2.5
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), name
