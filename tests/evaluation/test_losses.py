"""The loss of every character, and the attention weights that are shown."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm import UserError, attention_weights
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.transformer import CausalTransformer


@pytest.fixture
def documents() -> Documents:
    """Return documents of 30, 0, 1 and 8 characters, for a context of 8."""
    ids = torch.randint(10, (39,), generator=torch.Generator().manual_seed(0))
    return Documents(ids.to(torch.uint8), torch.tensor([30, 0, 1, 8]))


def test_in_disjoint_blocks_their_mean_is_the_validation_loss(
    transformer: CausalTransformer, documents: Documents
) -> None:
    losses = character_losses(transformer, documents, context_length=8)
    loader = WindowLoader(documents, context_length=8, batch_size=3, padding_id=10)
    with torch.no_grad():
        pairs = [
            masked_cross_entropy(transformer(b.inputs), b.targets, b.target_mask) for b in loader
        ]
    nats, count = (sum(float(pair[i]) for pair in pairs) for i in (0, 1))
    assert np.isfinite(losses).sum() == count == 29 + 0 + 7
    assert np.nansum(losses) == pytest.approx(nats, rel=1e-6)


@pytest.mark.parametrize("stride", [1, 3, 7, 8])
def test_each_character_is_predicted_once_by_the_window_that_its_stride_says(
    transformer: CausalTransformer, documents: Documents, stride: int
) -> None:
    losses = character_losses(transformer, documents, 8, stride)
    assert list(np.flatnonzero(np.isnan(losses))) == [0, 30, 31]
    ids = documents.ids[:30].long()
    for target in range(1, 30):
        # Windows begin at multiples of the stride; the first that reaches the target predicts it.
        start = max(0, -(-(target - 8) // stride)) * stride
        with torch.no_grad():
            logits = transformer(ids[None, start:target])[0, -1]
        expected = F.cross_entropy(logits, ids[target])
        assert losses[target] == pytest.approx(float(expected), rel=1e-5)


def test_the_mode_is_restored_progress_is_reported_and_an_empty_text_has_no_losses(
    transformer: CausalTransformer, documents: Documents
) -> None:
    transformer.train()
    reported: list[tuple[int, int]] = []
    character_losses(transformer, documents, 8, progress=lambda *both: reported.append(both))
    assert transformer.training
    assert reported[-1] == (39, 39)
    empty = Documents(documents.ids[:0], torch.tensor([0]))
    assert character_losses(transformer, empty, 8).shape == (0,)
    with pytest.raises(UserError, match="stride is 0: expected a value >= 1"):
        character_losses(transformer, documents, 8, stride=0)


IDS = torch.tensor([[1, 2, 3, 4, 5, 0], [5, 5, 1, 0, 2, 3]])


@pytest.mark.parametrize("options", [
    {}, {"positions": "rotary"}, {"positions": "learned", "norm": "post"}, {"qkv_bias": True},
])  # fmt: skip
def test_attention_weights_times_values_are_the_output_of_fused_attention(
    options: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        num_layers=3, num_heads=2, d_model=8, context_length=6, dropout=0.5, attention_dropout=0.5,
        **options,
    )  # fmt: skip
    network = CausalTransformer(7, config).double().train()
    for parameter in network.parameters():  # some are zero at first
        nn.init.normal_(parameter, std=0.5)
    weights = attention_weights(network, IDS)
    with pytest.raises(UserError, match="7 characters are more than the context_length, 6"):
        attention_weights(network, torch.zeros(1, 7, dtype=torch.long))
    assert network.training
    assert not any(block.attention._forward_pre_hooks for block in network.blocks)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 2, 6, dtype=torch.float64))
    assert torch.equal(weights, weights.tril())  # no look at the future
    seen: list[tuple[Tensor, Any, Tensor]] = []
    for block in network.blocks:
        block.attention.register_forward_hook(
            lambda _, given, output: seen.append((*given[:2], output))
        )
    network.eval()(IDS)
    for layer, (block, (x, rotation, output)) in enumerate(zip(network.blocks, seen, strict=True)):
        values = block.attention.project(x, rotation)[2]
        mixed = (weights[layer] @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(block.attention.output(mixed), output)
