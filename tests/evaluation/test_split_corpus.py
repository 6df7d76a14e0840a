"""The corpus of a checkpoint, divided as in its training."""

from pathlib import Path

import pytest

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.data.download import DownloadError
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.split_corpus import SplitCorpus
from tests.conftest import Fit

TEXT = "To be, or not to be: that is the question.\n" * 40
OLD = Path(__file__).parents[1] / "checkpoint" / "without_format.ckpt"


@pytest.fixture
def run(tiny_fit: Fit) -> Path:
    Path("play.txt").write_text(TEXT)
    cli = tiny_fit("--data.corpus=play.txt", "--max_steps=1", "--data.test_fraction=0.1",
                   "--data.val_fraction=0.2")  # fmt: skip
    return Path(cli.best.best_model_path)


def test_the_parts_are_those_of_the_training(run: Path) -> None:
    corpus = SplitCorpus(read_checkpoint(run))
    assert corpus.difference is None
    whole = "".join(part for name in ("train", "val", "test") for part in corpus.documents(name))
    assert whole == TEXT
    sizes = [len(corpus.documents(name)[0]) for name in ("train", "val", "test")]
    assert sizes == [1204, 344, 172]


def test_the_published_split_is_a_tenth_of_one_text(run: Path) -> None:
    corpus = SplitCorpus(read_checkpoint(OLD), "sample")
    assert not corpus.is_published_split("0" * 64)
    assert not SplitCorpus(read_checkpoint(run)).is_published_split("0" * 64)


def test_an_unknown_part_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"part is 'all'.*train, val, test"):
        SplitCorpus(read_checkpoint(run)).documents("all")  # type: ignore[arg-type]


def test_a_text_in_place_of_a_missing_one_is_a_difference_and_no_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*_: object) -> None:
        raise DownloadError("no connection")

    monkeypatch.setattr("shakespeare_lm.data.corpus.download", download)
    monkeypatch.setenv("SHAKESPEARE_LM_DATA", str(tmp_path / "empty"))
    difference = SplitCorpus(read_checkpoint(run), "auto").difference
    assert "another text (using the bundled sample, because tiny Shakespeare is not" in difference
