"""The loss of every character: as val_loss in blocks, and exact with a sliding window."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.transformer import CausalTransformer


@pytest.fixture
def documents() -> Documents:
    """Return three documents of 30, 1 and 8 characters, for a context of 8."""
    generator = torch.Generator().manual_seed(0)
    return Documents(
        torch.randint(10, (39,), generator=generator).to(torch.uint8), torch.tensor([30, 1, 8])
    )


def test_in_blocks_their_mean_is_the_validation_loss(
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


def test_the_network_is_left_as_it_was_and_progress_is_told(
    transformer: CausalTransformer, documents: Documents
) -> None:
    transformer.train()
    told: list[tuple[int, int]] = []
    character_losses(transformer, documents, 8, progress=lambda *both: told.append(both))
    assert transformer.training
    assert told[-1] == (39, 39)


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_out_of_range_is_refused(
    transformer: CausalTransformer, documents: Documents, stride: int
) -> None:
    with pytest.raises(UserError, match=rf"stride is {stride}: expected a value >= 1"):
        character_losses(transformer, documents, 8, stride)
