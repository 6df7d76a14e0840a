"""Teachers: their share of the loss, what they have not seen, that only training knows them, and
which a training has: n-grams of its text, and earlier models that fit it.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, Documents
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import (
    DistillationConfig,
    NetworkTeacher,
    NGramTeacher,
    cross_entropy_with,
)
from shakespeare_lm.methods.memory_network import MemoryNetwork
from shakespeare_lm.methods.ngram_memory import leaving_out
from shakespeare_lm.methods.objective import Preparation, TrainingStep
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import Fit, logged

VOCABULARY = 6


def text(count: int, seed: int) -> Tensor:
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


def teacher(share: float) -> NGramTeacher:
    made, cpu = NGramTeacher(share), torch.device("cpu")
    network = BigramTable(VOCABULARY + 1, NetworkConfig(network="bigram"))
    part = Documents(text(300, 1), torch.tensor([300]))
    made.prepare(Preparation(network, CharTokenizer("abcdef"), cpu, lambda: part))
    return made


def expected_by(made: NGramTeacher, batch: Batch, own: Tensor | None) -> Tensor:
    (ngrams,) = made.models
    with leaving_out(ngrams, own):
        return ngrams(batch.inputs).log_probabilities.exp()


def step_of(batch: Batch, logits: Tensor) -> TrainingStep:
    return TrainingStep(batch, torch.zeros(()), logits, schedule=1.0)


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
    expected = expected_by(made, batch, batch.targets)
    theirs = F.cross_entropy(
        logits[batch.target_mask], expected[batch.target_mask]
    )  # torch's own, with distributions as targets
    mixed = made(torch.tensor(2.0), step_of(batch, logits))
    torch.testing.assert_close(mixed, (1 - share) * 2.0 + share * theirs)


def test_the_teacher_has_not_seen_the_answer() -> None:
    batch, made = padded_batch(), teacher(1.0)
    # The loss of a network that is certain of the answer: 50 times the share that the teacher gives
    # to all other characters.
    certain = 50.0 * F.one_hot(batch.targets, VOCABULARY + 1)
    of_answer = 1 - made(torch.tensor(0.0), step_of(batch, certain)) / 50
    seen, not_seen = (
        expected_by(made, batch, own).gather(-1, batch.targets[..., None])
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
    made = NetworkTeacher(0.5, "one, other", context_length=12)
    made.models = list(networks)
    expected = sum(network(batch.inputs).softmax(-1) for network in networks) / 2
    assert isinstance(expected, Tensor)
    found = made.probabilities(batch)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    logits = torch.randn(2, 12, 7, requires_grad=True)
    made(torch.tensor(2.0), step_of(batch, logits)).backward()
    assert logits.grad is not None
    assert all(network.weight.grad is None for network in networks)


def test_a_share_and_teachers_go_together() -> None:
    for options in ({"distillation": 0.5}, {"teachers": "a.ckpt"}):
        with pytest.raises(UserError, match="set both or none"):
            DistillationConfig(**options)


def test_a_network_with_a_memory_is_taught_by_it(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1", "--model.memory_order=2", "--model.ngram_distillation=0.5")
    network, (found,) = cli.model.network, cli.model.objectives.values()
    assert isinstance(network, MemoryNetwork)
    assert isinstance(found, NGramTeacher)
    (ngrams,) = found.models
    assert ngrams is network.ngrams


def test_without_a_memory_it_counts_the_training_part(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1", "--model.ngram_distillation=0.5")
    (found,) = cli.model.objectives.values()
    (ngrams,) = found.models
    assert ngrams.max_order == 7
    assert ngrams.has_counted(*cli.datamodule.encoded["train"])


def test_a_teacher_needs_the_data_module() -> None:
    module = ShakespeareLM("ab", num_layers=1, num_heads=1, d_model=4, ngram_distillation=0.1)
    module._trainer = Trainer(logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="need a ShakespeareDataModule"):
        module.prepare_objectives(torch.device("cpu"))
    module.prepare_objectives()  # which reads no text


def test_a_run_is_taught_by_earlier_ones_and_resumes_with_them(tiny_fit: Fit) -> None:
    for seed in ("1", "2"):
        tiny_fit("--max_steps=3", f"--seed_everything={seed}", f"--name=teacher{seed}")
    folders = [f"lightning_logs/teacher{seed}/version_0" for seed in (1, 2)]
    taught = (
        "--model.distillation=0.7", f"--model.teachers={', '.join(folders)}",
        "--val_check_interval=3", "--model.decay_steps=6",
    )  # fmt: skip
    alone = tiny_fit("--max_steps=6", "--val_check_interval=3")
    whole = tiny_fit(*taught, "--max_steps=6")
    tiny_fit(*taught, "--max_steps=3")
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=6")
    states = [cli.model.state_dict() for cli in (alone, whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[0])


def test_a_teacher_that_does_not_fit_is_refused(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=1", "--name=short")
    tiny_fit("--max_steps=1", "--name=memory", "--model.memory_order=2")
    share = "--model.distillation=0.5"
    teacher = "--model.teachers=lightning_logs/short/version_0"
    with pytest.raises(UserError, match="has a context_length of 16: expected at least 32, as"):
        tiny_fit("--max_steps=1", share, teacher, "--data.context_length=32")
    Path("other.txt").write_text("abcabcab" * 200)
    with pytest.raises(UserError, match=r"short/.*best\.ckpt has other characters than this run's"):
        tiny_fit("--max_steps=1", share, teacher, "--data.corpus=other.txt")
    Path("empty").mkdir()
    for path, problem in (
        ("nowhere", "there is no checkpoint nowhere"),
        ("empty", r"no best\.ckpt in empty"),
    ):
        with pytest.raises(UserError, match=f"^the teacher {path}: .*{problem}"):
            tiny_fit("--max_steps=1", share, f"--model.teachers={path}", "--name=wrong")
    assert not Path("lightning_logs/wrong").exists()
    tiny_fit("--max_steps=1", share, "--model.teachers=lightning_logs/memory/version_0")


def test_the_files_of_the_teachers_are_settled_when_a_run_starts(tiny_fit: Fit) -> None:
    first = tiny_fit("--max_steps=1")
    taught = "--model.distillation=0.5", "--model.teachers=lightning_logs"
    second = tiny_fit("--max_steps=1", *taught)  # has the newest best.ckpt from now on
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=2")
    for cli in (second, resumed):
        assert Path(cli.model.config.teachers).samefile(first.best.best_model_path)
