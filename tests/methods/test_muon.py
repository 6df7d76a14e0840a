"""Muon: its steps are those of torch's Muon and AdamW, and one state holds both."""

import copy

import pytest
import torch

from shakespeare_lm.methods.muon import MuonAndAdamW
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.training.optimizer import OptimizerConfig, build_optimizer

CONFIG = OptimizerConfig(learning_rate=0.5, muon_learning_rate=0.25, weight_decay=0.1)


def muon_for(network: CausalTransformer) -> MuonAndAdamW:
    optimizer = build_optimizer(network.parameters(), CONFIG, network.blocks)
    assert isinstance(optimizer, MuonAndAdamW)
    return optimizer


def give_gradients(network: CausalTransformer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def other(transformer: CausalTransformer) -> CausalTransformer:
    return copy.deepcopy(transformer)


def test_a_muon_step_equals_torchs_muon_and_adamw_side_by_side(
    transformer: CausalTransformer, other: CausalTransformer
) -> None:
    ours = muon_for(transformer)
    matrices = {p for p in other.blocks.parameters() if p.ndim == 2}
    rest = [p for p in other.parameters() if p not in matrices]
    muon = torch.optim.Muon(matrices, lr=0.25, momentum=0.95, weight_decay=0.1)
    adamw = torch.optim.AdamW(rest, lr=0.5, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(3):
        give_gradients(transformer, step)
        give_gradients(other, step)
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    pairs = zip(transformer.named_parameters(), other.parameters(), strict=True)
    for (name, mine), theirs in pairs:
        # torch always iterates in bfloat16, which has a relative precision of 2^-8: for three
        # updates with entries of up to 0.35 that is an error of this size.
        tolerance = 0.02 if theirs in matrices else 1e-6
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance, msg=name)


def test_muons_state_survives_a_checkpoint_bit_for_bit(
    transformer: CausalTransformer, other: CausalTransformer
) -> None:
    through, straight = muon_for(transformer), muon_for(other)
    for step in range(2):
        give_gradients(transformer, step)
        give_gradients(other, step)
        through.step()
        straight.step()
        state = copy.deepcopy(through.state_dict())
        through = muon_for(transformer)
        through.load_state_dict(state)
    assert all(map(torch.equal, transformer.parameters(), other.parameters()))


def test_a_learning_rate_set_after_loading_reaches_both_optimizers(
    transformer: CausalTransformer, other: CausalTransformer
) -> None:
    optimizer = muon_for(transformer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    give_gradients(transformer, 0)
    optimizer.step()
    assert all(map(torch.equal, transformer.parameters(), other.parameters()))


def test_parameters_without_a_gradient_are_not_changed_and_the_closure_computes_them(
    transformer: CausalTransformer, other: CausalTransformer
) -> None:
    frozen = transformer.blocks[0].attention.output.weight

    def closure() -> float:
        give_gradients(transformer, 0)
        frozen.grad = None
        return 2.5

    assert muon_for(transformer).step(closure) == 2.5
    for mine, before in zip(transformer.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, before) is (mine is frozen)
