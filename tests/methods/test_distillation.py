"""Teachers: their share of the loss, what they have not seen, and that only training knows them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import (
    DistillationConfig,
    NetworkTeacher,
    NGramTeacher,
    cross_entropy_with,
)
from shakespeare_lm.methods.ngram_memory import NGramMemory
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit, logged

VOCABULARY = 6


def text(count: int, seed: int) -> Tensor:
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


def teacher(share: float) -> NGramTeacher:
    ngrams = NGramMemory(VOCABULARY + 1, 3)
    ngrams.remember(text(300, 1), torch.tensor([300]))
    return NGramTeacher(share, ngrams)


def padded_batch() -> Batch:
    """Return two windows of the text that the teacher counted, the second one padded."""
    ids = torch.stack([text(300, 1)[40:53], text(300, 1)[90:103]])
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    inputs, targets = (part.masked_fill(~mask, VOCABULARY) for part in (ids[:, :-1], ids[:, 1:]))
    return Batch(inputs, targets, mask, mask)


def test_cross_entropy_with_certain_targets_is_the_masked_cross_entropy() -> None:
    logits, targets, mask = torch.randn(2, 5, 4), torch.randint(4, (2, 5)), torch.rand(2, 5) < 0.6
    certain = F.one_hot(targets, 4).float()
    expected = masked_cross_entropy(logits, targets, mask)
    torch.testing.assert_close(cross_entropy_with(certain, logits, mask), expected)


def test_masked_targets_have_no_influence_on_loss_and_gradient() -> None:
    logits = torch.randn(2, 5, 4)
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    logits.requires_grad_()
    nats, count = cross_entropy_with(torch.rand(2, 5, 4).softmax(-1), logits, mask)
    nats.backward()
    assert count == 3
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[mask] != 0).all()


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_the_loss_is_a_mean_of_the_texts_and_the_teachers(share: float) -> None:
    batch, made = padded_batch(), teacher(share)
    logits = torch.randn(2, 12, VOCABULARY + 1)
    expected = made.ngrams(batch.inputs, own=batch.targets).log_probabilities.exp()
    theirs = F.cross_entropy(
        logits[batch.target_mask], expected[batch.target_mask]
    )  # torch's own, with distributions as targets
    mixed = made.mixed_loss(torch.tensor(2.0), logits, batch)
    torch.testing.assert_close(mixed, (1 - share) * 2.0 + share * theirs)


def test_the_teacher_has_not_seen_the_answer() -> None:
    batch, made = padded_batch(), teacher(1.0)
    # The loss of a network that is certain of the answer: 50 times the share that the teacher gives
    # to all other characters.
    certain = 50.0 * F.one_hot(batch.targets, VOCABULARY + 1)
    of_answer = 1 - made.mixed_loss(torch.tensor(0.0), certain, batch) / 50
    seen, not_seen = (
        made.ngrams.probabilities(batch.inputs, own).gather(-1, batch.targets[..., None])
        for own in (None, batch.targets)
    )
    torch.testing.assert_close(of_answer, not_seen[batch.target_mask].mean())
    assert not_seen[batch.target_mask].mean() < seen[batch.target_mask].mean() - 0.02


def test_it_changes_what_is_learned_but_not_what_is_logged_and_saved(tiny_fit: Fit) -> None:
    options = ("--max_steps=2", "--model.warmup_steps=0")
    plain = tiny_fit(*options, "--name=plain")
    taught = tiny_fit(*options, "--name=taught", "--model.ngram_distillation=0.5")
    losses = [
        logged(f"lightning_logs/{name}/version_0", "train_loss") for name in ("plain", "taught")
    ]
    assert losses[0][0] == losses[1][0]  # on the text alone, before the first step
    states = [cli.model.state_dict() for cli in (plain, taught)]
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    loaded = ShakespeareLM.load_from_checkpoint(taught.best.best_model_path)
    assert loaded.config.ngram_distillation == 0.5


def test_a_resumed_run_is_the_uninterrupted_one_and_keeps_its_teacher(tiny_fit: Fit) -> None:
    options = ("--model.ngram_distillation=0.5", "--val_check_interval=3", "--model.decay_steps=6")
    whole = tiny_fit(*options, "--max_steps=6")
    tiny_fit(*options, "--max_steps=3")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=6")
    states = [cli.model.state_dict() for cli in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_networks_teach_what_they_expect_on_average() -> None:
    batch, networks = padded_batch(), [torch.nn.Embedding(7, 7) for _ in range(2)]
    made = NetworkTeacher(0.5, list(networks))
    expected = sum(network(batch.inputs).softmax(-1) for network in networks) / 2
    assert isinstance(expected, Tensor)
    found = made.probabilities(batch)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    logits = torch.randn(2, 12, 7, requires_grad=True)
    made.mixed_loss(torch.tensor(2.0), logits, batch).backward()
    assert logits.grad is not None
    assert all(network.weight.grad is None for network in networks)


def test_a_share_and_teachers_go_together() -> None:
    for options in ({"distillation": 0.5}, {"teachers": "a.ckpt"}):
        with pytest.raises(UserError, match="set both or none"):
            DistillationConfig(**options)
