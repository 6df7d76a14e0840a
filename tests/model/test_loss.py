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


def test_loss_and_gradient_equal_torchs_with_ignore_index() -> None:
    ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
    nats, count = masked_cross_entropy(ours, TARGETS, MASK)
    (nats / count).backward()
    targets = TARGETS.masked_fill(~MASK, -1)
    F.cross_entropy(theirs.flatten(0, 1), targets.flatten(), ignore_index=-1).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_masked_positions_change_neither_loss_nor_gradient() -> None:
    results = []
    for filler in (0, 6):
        logits = LOGITS.clone()
        logits[~MASK] += 100.0 * filler
        logits.requires_grad_()
        nats, _ = masked_cross_entropy(logits, TARGETS.masked_fill(~MASK, filler), MASK)
        nats.backward()
        assert logits.grad is not None
        results.append((nats.detach(), logits.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not results[0][1][~MASK].any()


def test_padding_alone_gives_zero_and_no_nan() -> None:
    logits = LOGITS.clone().requires_grad_()
    nats, count = masked_cross_entropy(logits, TARGETS, torch.zeros_like(MASK))
    nats.backward()
    assert nats.item() == 0.0
    assert count.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_bfloat16_logits_are_scored_in_float32() -> None:
    half = LOGITS.bfloat16()
    nats, _ = masked_cross_entropy(half, TARGETS, MASK)
    expected, _ = masked_cross_entropy(half.float(), TARGETS, MASK)
    assert nats.dtype == torch.float32
    assert torch.equal(nats, expected)
