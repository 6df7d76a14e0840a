"""Teachers: their share of the loss, what they have not seen, and which a run has: n-grams of its
text, and earlier models that fit it.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Batch, Documents
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods import distillation
from shakespeare_lm.methods.distillation import NetworkTeacher, NGramTeacher, cross_entropy_with
from shakespeare_lm.methods.ensemble import Ensemble
from shakespeare_lm.methods.networks import NetworkOptions, build_network
from shakespeare_lm.methods.ngram_memory import leaving_out
from shakespeare_lm.methods.objective import Preparation, TrainingStep
from shakespeare_lm.model.loss import masked_cross_entropy
from shakespeare_lm.model.network import Network
from tests.conftest import Fit

TEXT = torch.randint(6, (300,), generator=torch.Generator().manual_seed(1))
IDS = torch.stack([TEXT[40:53], TEXT[90:103]])
MASK = torch.arange(12) < torch.tensor([[12], [7]])
# Two windows of the text that the teacher has counted, the second one padded.
POSITIONS = torch.tensor([[41], [91]]) + torch.arange(12)
BATCH = Batch(
    *(ids.masked_fill(~MASK, 6) for ids in (IDS[:, :-1], IDS[:, 1:])), MASK, MASK, POSITIONS
)


def teacher_of(network: Network, share: float = 0.5) -> NGramTeacher:
    teacher = NGramTeacher(share)
    teacher.prepare(preparation_for(network))
    return teacher


def preparation_for(network: Network) -> Preparation:
    part = Documents(TEXT, torch.tensor([300]))
    return Preparation(network, CharTokenizer("abcdef"), torch.device("cpu"), lambda: part)


def network(**options: object) -> Network:
    sizes = {"context_length": 12, "num_layers": 1, "num_heads": 1, "d_model": 8}
    return build_network(7, NetworkOptions(**sizes, **options))


def step_of(logits: torch.Tensor) -> TrainingStep:
    return TrainingStep(BATCH, torch.zeros(()), logits, schedule=1.0)


def test_cross_entropy_with_certain_targets_is_the_masked_cross_entropy() -> None:
    logits = torch.randn(2, 12, 7, requires_grad=True)
    certain = F.one_hot(BATCH.targets, 7).float()
    sums = cross_entropy_with(certain, logits, MASK), masked_cross_entropy(logits, *BATCH[1::2])
    torch.testing.assert_close(*sums)
    torch.testing.assert_close(*(torch.autograd.grad(nats, logits) for nats, _ in sums))


def test_the_loss_is_a_mean_of_the_texts_and_the_teachers() -> None:
    teacher, logits = teacher_of(network(), share=0.25), torch.randn(2, 12, 7)
    # torch's own, with distributions as targets.
    of_teacher = F.cross_entropy(logits[MASK], teacher.probabilities(BATCH)[MASK])
    mixed = teacher(torch.tensor(2.0), step_of(logits))
    torch.testing.assert_close(mixed, 0.75 * 2.0 + 0.25 * of_teacher)


def test_the_teacher_has_not_seen_the_answer() -> None:
    teacher = teacher_of(network())
    teacher.table = None
    ngrams = teacher.models[0].ngrams
    seen = ngrams.probabilities(BATCH.inputs)
    with leaving_out(ngrams, BATCH.targets):
        not_seen = ngrams.probabilities(BATCH.inputs)
    torch.testing.assert_close(teacher.probabilities(BATCH), not_seen)
    of_answers = [p.gather(-1, BATCH.targets[..., None])[MASK].mean() for p in (seen, not_seen)]
    assert of_answers[1] < of_answers[0] - 0.02


def test_what_a_teacher_says_of_each_position_is_computed_once() -> None:
    """In windows with at least half a window before each character, and at the text's beginning."""
    teacher = teacher_of(network())
    with leaving_out(teacher.models[0], TEXT[None, 1:]):
        expected = teacher.models[0].ngrams.probabilities(TEXT[None, :-1])[0]
    found = teacher.table[1:].float()
    torch.testing.assert_close(found, expected, rtol=0, atol=2**-9)
    looked_up = teacher.probabilities(BATCH)
    assert torch.equal(looked_up[0], teacher.table[41:53])
    assert torch.equal(looked_up[1, :7], teacher.table[91:98])


def test_a_network_teacher_sees_half_a_window_before_each_position(monkeypatch) -> None:
    monkeypatch.setattr(distillation, "has_fast_bfloat16", lambda _: False)
    frozen, teacher = network(), NetworkTeacher(0.5, "one", context_length=24)
    teacher.models = [Ensemble([frozen])]
    teacher.prepare(preparation_for(frozen))
    for target, first in ((5, 0), (12, 0), (13, 6), (18, 6), (19, 12), (299, 288)):
        expected = frozen(TEXT[None, first:target])[0, -1].softmax(-1)
        torch.testing.assert_close(teacher.table[target].float(), expected, rtol=0, atol=2**-9)
    monkeypatch.setattr(distillation, "_MOST_TABLE_BYTES", 300 * 7 * 2 - 1)
    teacher.table = None
    with pytest.raises(UserError, match=r"teachers have a context_length of 12: .* at least 24, a"):
        teacher.prepare(preparation_for(frozen))
    teacher.context_length = 12
    teacher.prepare(preparation_for(frozen))
    torch.testing.assert_close(teacher.probabilities(BATCH), frozen(BATCH.inputs).softmax(-1))


def test_networks_teach_what_they_expect_on_average() -> None:
    networks = [network(), network(memory_order=2)]
    teacher = NetworkTeacher(0.5, "one, other", context_length=12)
    teacher.models = [Ensemble(networks)]
    expected = torch.stack([network(BATCH.inputs).softmax(-1) for network in networks]).mean(0)
    found = teacher.probabilities(BATCH)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert not teacher.state_dict()


def test_a_memory_teaches_its_network_and_a_network_without_one_learns_from_7_grams() -> None:
    with_memory = network(memory_order=2)
    assert teacher_of(with_memory).models[0].ngrams is with_memory.ngrams
    ngrams = teacher_of(network()).models[0].ngrams
    assert ngrams.max_order == 7
    assert ngrams.has_counted(TEXT, torch.tensor([300]))
    assert not ngrams.has_counted(TEXT, torch.tensor([100, 200]))


def test_a_teacher_that_does_not_fit_is_refused(tiny_fit: Fit) -> None:
    tiny_fit("--max_steps=1", "--name=short", "--model.memory_order=2")
    Path("other.txt").write_text("abcabcab" * 200)
    Path("empty").mkdir()
    short = "lightning_logs/short/version_0"
    for teacher, problem, option in (
        (short, "has other characters than this run's", "corpus=other.txt"),
        ("nowhere", "there is no checkpoint nowhere", "corpus=sample"),
        ("empty", r"no best\.ckpt in empty", "corpus=sample"),
    ):
        options = ("--model.distillation=0.5", f"--model.teachers={teacher}", f"--data.{option}")
        with pytest.raises(UserError, match=f"^the teacher {teacher}.*: .*{problem}"):
            tiny_fit("--max_steps=1", *options, "--name=wrong")
    assert not Path("lightning_logs/wrong").exists()


def test_the_files_of_the_teachers_are_settled_when_a_run_starts(tiny_fit: Fit) -> None:
    first = tiny_fit("--max_steps=1")
    taught = "--model.distillation=0.5", "--model.teachers=lightning_logs"
    second = tiny_fit("--max_steps=1", *taught)  # has the newest best.ckpt from now on
    resumed = tiny_fit("--ckpt_path=last", "--max_steps=2")
    for cli in (second, resumed):
        assert Path(cli.model.config.teachers).samefile(first.best.best_model_path)
