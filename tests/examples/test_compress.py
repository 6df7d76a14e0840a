"""The example that makes files smaller: back byte for byte, and as long as the loss says."""

import contextlib
import math
from pathlib import Path

import pytest

from examples import compress
from shakespeare_lm.commands.fit import fit
from shakespeare_lm.completion.completer import Completer
from tests.conftest import TINY

TEXT = "First line,\nand the second line.\n" * 40


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    with contextlib.chdir(tmp_path_factory.mktemp("trained")):
        cli = fit([*TINY, "--max_steps=20", "--val_check_interval=20"])
        return str(Path(cli.best.best_model_path).resolve())


@pytest.fixture
def checkpoint(trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return trained


def test_it_fits_on_a_page() -> None:
    assert len(Path(compress.__file__).read_text().splitlines()) <= 80


@pytest.mark.parametrize("options", [[], ["--frozen"]])
@pytest.mark.parametrize(
    "content", [TEXT.encode(), b"", b"a", "ü€ \0".encode() + b"\xff\xfe\r\n", b"\xff"]
)
def test_a_file_comes_back_byte_for_byte(
    checkpoint: str, content: bytes, options: list[str]
) -> None:
    Path("text").write_bytes(content)
    compress.main(checkpoint, "text", "small", *options)
    compress.main(checkpoint, "small", "back", "--restore", *options)
    assert Path("back").read_bytes() == content


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_length_of_the_file_is_the_loss(checkpoint: str, adaptive: bool) -> None:
    Path("text").write_text(TEXT)
    compress.main(checkpoint, "text", "small", *([] if adaptive else ["--frozen"]))
    completer = Completer.from_checkpoint(checkpoint)
    ids = completer.tokenizer.encode(TEXT)
    rows = completer.predictor(adaptive).read(ids)
    nats = sum(-row[i] for row, i in zip(rows, ids[1:], strict=True))
    nats += math.log(len(completer.tokenizer.vocabulary))  # the first character
    length = Path("small").stat().st_size
    assert length == pytest.approx(nats / math.log(2) / 8 + 4, rel=1e-3, abs=2)
