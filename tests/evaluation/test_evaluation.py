"""How good a model is: exact, in agreement with its training, on its text; and its rank."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.copying import SampleConfig
from shakespeare_lm.evaluation.evaluation import Evaluation, Row, encode, evaluate, notes, ranked
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from shakespeare_lm.methods.ngram_memory import NGramMemory
from tests.conftest import Fit

TEXT = "To be, or not to be: that is the question.\nWhether it is nobler, who can tell?\n"


@pytest.fixture
def run(tiny_fit: Fit) -> Path:
    Path("play.txt").write_text(TEXT * 40)
    cli = tiny_fit("--data.corpus=play.txt", "--max_steps=6", "--val_check_interval=3",
                   "--precision=32-true", "--data.test_fraction=0.1")  # fmt: skip
    return Path(cli.best.best_model_path)


def evaluated(path: Path, corpus: str | None = None, **options: object) -> Evaluation:
    checkpoint = read_checkpoint(path)
    return evaluate(checkpoint, path, SplitCorpus(checkpoint, corpus), **options)


def test_it_finds_the_corpus_and_agrees_with_the_stored_val_loss(run: Path) -> None:
    result = evaluated(run)
    assert result.agrees
    assert result.warning is None
    assert (result.part, result.stride) == ("val", 2)
    assert result.characters == len(TEXT) * 40 // 10 - 1
    assert result == evaluated(run)
    assert evaluated(run, stride=16).sliding_nats == pytest.approx(result.block_nats, abs=1e-6)


def test_breakdown_and_copies_are_computed_when_they_are_asked_for(run: Path) -> None:
    plain = evaluated(run)
    assert plain.breakdown is None
    assert plain.copying is None
    samples = SampleConfig(num_samples=2, max_new_tokens=20)
    on_val, on_train = (
        evaluated(run, part=part, breakdown=True, copying=samples) for part in ("val", "train")
    )
    corpus = SplitCorpus(read_checkpoint(run))
    assert on_val.breakdown == break_down(corpus.documents("val"), on_val.losses, 16)
    assert [len(text) for text in on_val.copying.samples] == [20, 20]
    # The training part is not held out: the validation part is the yardstick for it too.
    assert on_train.copying == on_val.copying


def test_other_parts_have_no_stored_loss_to_agree_with(run: Path) -> None:
    for part in ("train", "test"):
        result = evaluated(run, part=part)
        assert result.agrees is None
        assert result.stored_val_loss is None


def test_a_loss_that_is_not_the_stored_one_does_not_agree(run: Path) -> None:
    content = torch.load(run, weights_only=True)
    content["validation"]["val_loss"] += 1e-4
    torch.save(content, run)
    assert evaluated(run).agrees is False


def test_another_text_is_evaluated_with_a_warning(run: Path) -> None:
    Path("other.txt").write_text(TEXT[::-1] * 30)
    result = evaluated(run, "other.txt")
    assert result.warning == "the checkpoint was trained on another text"
    assert result.agrees is None


def test_a_memory_leaves_out_the_own_occurrence_in_its_own_text_alone(
    tiny_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    for name in ("play.txt", "other.txt"):
        Path(name).write_text("".join(rng.choices("abcdefgh", k=2000)))
    options = "--data.corpus=play.txt", "--model.memory_order=3", "--max_steps=1"
    path = Path(tiny_fit(*options).best.best_model_path)
    same, other = evaluated(path, part="train"), evaluated(path, "other.txt", part="train")
    network = Completer.from_checkpoint(path).network
    for corpus, result, is_own in (("play.txt", same, True), ("other.txt", other, False)):
        checkpoint = read_checkpoint(path)
        text = encode(SplitCorpus(checkpoint, corpus).documents("train"), checkpoint.tokenizer)
        means = []
        for own in (is_own, not is_own):
            monkeypatch.setattr(NGramMemory, "has_counted", lambda *_, own=own: own)
            means.append(float(np.nanmean(character_losses(network, text, 16))))
        expected, wrong = means
        assert result.block_nats == pytest.approx(expected, abs=0.01)
        assert abs(result.block_nats - wrong) > 0.02


def test_a_character_that_the_model_never_saw_is_named(run: Path) -> None:
    Path("other.txt").write_text(("ж" + TEXT) * 30)
    with pytest.raises(
        UserError, match=r"has characters .* does not know, such as 'ж' \(U\+0436\)"
    ):
        evaluated(run, "other.txt")


def test_an_empty_part_is_refused(tiny_fit: Fit) -> None:
    path = Path(tiny_fit("--max_steps=1").best.best_model_path)
    with pytest.raises(UserError, match=r"the test part is empty: test_fraction is 0\.0"):
        evaluated(path, part="test")


def test_a_checkpoint_whose_corpus_is_gone_or_was_not_named_says_so(run: Path) -> None:
    Path("play.txt").unlink()
    with pytest.raises(UserError, match=r"the corpus 'play\.txt' is neither an existing file"):
        evaluated(run)
    old = Path(__file__).parents[1] / "checkpoint" / "without_format.ckpt"
    with pytest.raises(UserError, match="does not name its corpus: give one with --corpus"):
        evaluated(old)
    assert evaluated(old, "sample").characters == 3767


@pytest.mark.parametrize(
    ("data", "validation"),
    [
        ({"corpus": 5}, {}),
        ({"corpus": ["sample"], "split": 3}, {"val_loss": "x"}),
        ({"corpus": ["sample"], "val_fraction": "x"}, None),
        ([], []),
    ],
)
def test_a_crafted_checkpoint_is_an_error_in_one_line(
    run: Path, data: object, validation: object
) -> None:
    content = torch.load(run, weights_only=True)
    content.update(ShakespeareDataModule=data, validation=validation)
    torch.save(content, run)
    with pytest.raises(UserError):
        evaluated(run)


def evaluation(
    checkpoint: str = "lightning_logs/a/version_0/checkpoints/best.ckpt",
    stored: float | None = None,
    warning: str | None = None,
) -> Evaluation:
    return Evaluation(
        checkpoint=checkpoint, part="val", characters=2, block_nats=2.0, sliding_nats=1.0,
        stride=4, stored_val_loss=stored, warning=warning, losses=np.array([2.0, 2.0]),
    )  # fmt: skip


def test_models_and_baselines_are_sorted_together() -> None:
    rows = ranked([evaluation()], [Baseline("b", 3.0, "note"), Baseline("a", 1.5)])
    name = "lightning_logs/a/version_0"
    assert rows == [
        Row(1.0, name, "sliding window, 4 new characters each", True),
        Row(1.5, "a", "", False),
        Row(2.0, name, "in blocks of the context", True),
        Row(3.0, "b", "note", False),
    ]
    assert rows[2].bits == pytest.approx(2 / math.log(2))
    assert rows[2].perplexity == pytest.approx(math.e**2)


def test_only_the_best_of_a_run_has_the_name_of_its_folder() -> None:
    for path in ("runs/checkpoints/last.ckpt", "best.ckpt", "/models/best.ckpt"):
        assert evaluation(path).name == path


def test_notes_say_what_differs_from_the_training() -> None:
    assert notes(evaluation()) == []
    assert notes(evaluation(stored=2.000001)) == ["its stored val_loss, 2.000001, is the same"]
    (line,) = notes(evaluation(stored=2.1))
    assert line.startswith("its stored val_loss is 2.100000, recomputed 2.000000: ")
    assert notes(evaluation(warning="other")) == ["not the data of its training: other"]
