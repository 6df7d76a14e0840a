"""The masked cross-entropy is exact and ignores padding."""

import torch
import torch.nn.functional as F

from shakespeare_lm.model.loss import masked_cross_entropy

LOGITS = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)


def test_the_sum_and_the_count_equal_a_loop_in_double_precision() -> None:
    nats, count = masked_cross_entropy(LOGITS, TARGETS, MASK)
    expected = 0.0
    for row, time in MASK.nonzero().tolist():
        scores = LOGITS[row, time].double()
        expected -= float(scores[TARGETS[row, time]] - scores.logsumexp(0))
    assert count.item() == 7
    torch.testing.assert_close(nats.item(), expected, rtol=1e-6, atol=0)  # float32


def loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    nats, _ = masked_cross_entropy(logits, targets, mask)
    return nats.detach(), torch.autograd.grad(nats, logits)[0]


def test_loss_and_gradient_equal_torchs_with_ignore_index() -> None:
    theirs, targets = LOGITS.clone().requires_grad_(), TARGETS.masked_fill(~MASK, -1).flatten()
    loss = F.cross_entropy(theirs.flatten(0, 1), targets, ignore_index=-1, reduction="sum")
    expected = loss.detach(), torch.autograd.grad(loss, theirs)[0]
    torch.testing.assert_close(loss_and_gradient(LOGITS, TARGETS, MASK), expected)


def test_masked_positions_change_neither_loss_nor_gradient() -> None:
    changed, targets = LOGITS + 600.0 * ~MASK[..., None], TARGETS.masked_fill(~MASK, 6)
    nats, gradient = loss_and_gradient(LOGITS, TARGETS, MASK)
    nats_of_changed, gradient_of_changed = loss_and_gradient(changed, targets, MASK)
    assert torch.equal(nats, nats_of_changed)
    assert torch.equal(gradient, gradient_of_changed)
    assert not gradient[~MASK].any()


def test_padding_alone_gives_zero_and_no_nan() -> None:
    nats, gradient = loss_and_gradient(LOGITS, TARGETS, torch.zeros_like(MASK))
    assert nats == 0.0
    assert not gradient.any()
    assert masked_cross_entropy(LOGITS, TARGETS, torch.zeros_like(MASK))[1] == 0


def test_bfloat16_logits_are_scored_in_float32() -> None:
    half = LOGITS.bfloat16()
    nats, _ = masked_cross_entropy(half, TARGETS, MASK)
    expected, _ = masked_cross_entropy(half.float(), TARGETS, MASK)
    assert nats.dtype == torch.float32
    assert torch.equal(nats, expected)
