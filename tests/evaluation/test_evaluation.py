"""How good a model is: exact, in agreement with its training, on its text; and its rank."""

import hashlib
import math
import random
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.download import DownloadError
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.baselines import Baseline
from shakespeare_lm.evaluation.breakdown import break_down
from shakespeare_lm.evaluation.copying import SampleConfig
from shakespeare_lm.evaluation.evaluation import Evaluation, Row, encode, evaluate, notes, ranked
from shakespeare_lm.evaluation.losses import character_losses
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from shakespeare_lm.methods.ngram_memory import NGramMemory
from tests.conftest import Fit
from tests.evaluation.conftest import PLAY, evaluation

OLD = Path(__file__).parents[1] / "checkpoint" / "without_format.ckpt"


def evaluated(path: Path, corpus: str | None = None, **options: Any) -> Evaluation:
    checkpoint = read_checkpoint(path)
    return evaluate(checkpoint, path, SplitCorpus(checkpoint, corpus), **options)


def change(run: Path, **values: object) -> None:
    torch.save({**torch.load(run, weights_only=True), **values}, run)


def test_the_parts_are_those_of_the_training_and_the_stored_val_loss_is_confirmed(
    run: Path,
) -> None:
    corpus = SplitCorpus(read_checkpoint(run))
    parts = [corpus.documents(name) for name in ("train", "val", "test")]
    assert "".join(text for part in parts for text in part) == PLAY
    assert [len(part[0]) for part in parts] == [2848, 356, 356]
    result = evaluated(run)
    assert result.agrees
    assert result.warning is None
    assert (result.part, result.stride, result.characters) == ("val", 2, 355)
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
    assert on_val.copying is not None
    assert [len(text) for text in on_val.copying.samples] == [20, 20]
    # The training part is not held out: the validation part is the yardstick for it too.
    assert on_train.copying == on_val.copying


def test_a_loss_agrees_with_the_stored_one_of_the_same_part_and_text_alone(run: Path) -> None:
    Path("other.txt").write_text(PLAY[::-1])
    other = evaluated(run, "other.txt")
    assert other.warning == "the checkpoint was trained on another text"
    for result in (other, evaluated(run, part="train"), evaluated(run, part="test")):
        assert result.agrees is None
        assert result.stored_val_loss is None
    stored = torch.load(run, weights_only=True)["validation"]
    change(run, validation={**stored, "val_loss": stored["val_loss"] + 1e-4})
    assert evaluated(run).agrees is False


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


def test_what_cannot_be_evaluated_is_named(run: Path) -> None:
    Path("other.txt").write_text(PLAY.replace("W", "ж"), "utf-8")
    with pytest.raises(UserError, match=r"has ch.* does not know, such as 'ж' \(U\+0436\)"):
        evaluated(run, "other.txt")
    with pytest.raises(UserError, match=r"part is 'all'.*train, val, test"):
        evaluated(run, part="all")
    with pytest.raises(UserError, match="does not name its corpus: give one with --corpus"):
        evaluated(OLD)
    with pytest.raises(UserError, match=r"the test part is empty: test_fraction is 0\.0"):
        evaluated(OLD, "sample", part="test")
    Path("play.txt").unlink()
    with pytest.raises(UserError, match=r"the corpus 'play\.txt' is neither an existing file"):
        evaluated(run)
    assert evaluated(OLD, "sample").characters == 3767


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["/etc/hostnam[e]"], "a pattern, or a path into the network, is not looked up"),
        (["**"], "a pattern, or"),
        (["//host/text"], "a pattern, or"),
        (["other.txt"], r"it is not the text of the training any more"),
        (["play.txt", "other.txt"], "it is not the text of the training"),
    ],
)
def test_a_checkpoint_names_no_files_of_this_disk_but_its_own_text(
    run: Path, monkeypatch: pytest.MonkeyPatch, names: list[Any], reason: str
) -> None:
    """Who has the checkpoint's result would learn what is in these files."""
    Path("other.txt").write_text(PLAY + "secret")
    data = torch.load(run, weights_only=True)["ShakespeareDataModule"]
    change(run, ShakespeareDataModule={**data, "corpus": names})
    monkeypatch.setattr("glob.glob", Mock(side_effect=AssertionError("looked for files")))
    with pytest.raises(UserError, match=rf"{reason}.*: if you want to use it, add --corpus "):
        evaluated(run)


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_there_is_no_verdict_on_a_non_finite_loss(run: Path, value: float) -> None:
    checkpoint = read_checkpoint(run)
    checkpoint.weights["head.weight"].fill_(value)
    with pytest.raises(UserError, match="computes non-finite numbers"):
        evaluate(checkpoint, run, SplitCorpus(checkpoint))
    assert Row(1e5, "huge", "", True).perplexity < math.inf  # also a number in JSON


@pytest.mark.parametrize("split", [{"split": 3}, {"val_fraction": "x"}])
def test_a_crafted_split_is_refused_by_name(run: Path, split: dict[str, object]) -> None:
    change(run, ShakespeareDataModule={"corpus": ["sample"], **split}, validation=[])
    with pytest.raises(UserError, match=f"^{next(iter(split))} is '(3|x)': "):
        evaluated(run)


def test_the_published_split_is_a_tenth_of_one_text(run: Path) -> None:
    corpus = SplitCorpus(read_checkpoint(OLD), "sample")
    text = "".join(corpus.parts.train + corpus.parts.val)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    assert corpus.is_published_split(checksum)
    assert not corpus.is_published_split("0" * 64)
    own_split = SplitCorpus(read_checkpoint(run), "sample")  # with a test part
    assert not own_split.is_published_split(checksum)


def test_a_text_in_place_of_a_missing_one_is_a_difference_and_no_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*_: object) -> None:
        raise DownloadError("no connection")

    monkeypatch.setattr("shakespeare_lm.data.corpus.download", download)
    monkeypatch.setenv("SHAKESPEARE_LM_DATA", str(tmp_path / "empty"))
    difference = SplitCorpus(read_checkpoint(run), "auto").difference
    assert "another text (using the bundled sample, because tiny Shakespeare is not" in difference


LOSSES = np.array([np.nan, 2.0, 2.0])


def test_models_and_baselines_are_sorted_together_and_the_best_of_a_run_has_its_name() -> None:
    model = evaluation(LOSSES, checkpoint="lightning_logs/a/version_0/checkpoints/best.ckpt")
    rows = ranked([model], [Baseline("b", 3.0, "note"), Baseline("a", 1.5)])
    name = "lightning_logs/a/version_0"
    assert rows == [
        Row(1.0, name, "sliding window, 4 new characters each", True),
        Row(1.5, "a", "", False),
        Row(2.0, name, "in blocks of the context", True),
        Row(3.0, "b", "note", False),
    ]
    assert rows[2].bits == pytest.approx(2 / math.log(2))
    assert rows[2].perplexity == pytest.approx(math.e**2)
    for path in ("runs/checkpoints/last.ckpt", "best.ckpt", "/models/best.ckpt"):
        assert evaluation(LOSSES, checkpoint=path).name == path


def test_notes_say_what_differs_from_the_training() -> None:
    assert notes(evaluation(LOSSES)) == []
    (line,) = notes(evaluation(LOSSES, stored_val_loss=2.000001))
    assert line == "its stored val_loss, 2.000001, is the same"
    (line,) = notes(evaluation(LOSSES, stored_val_loss=2.1))
    assert line.startswith("its stored val_loss is 2.100000, recomputed 2.000000: ")
    (line,) = notes(evaluation(LOSSES, warning="other"))
    assert line == "not the data of its training: other"
