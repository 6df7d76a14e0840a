"""The example that makes files smaller: back byte for byte, and as long as the loss says."""

import math
from pathlib import Path

import pytest

from examples import compress
from shakespeare_lm.completion.completer import Completer
from tests.conftest import Fit

TEXT = "First line,\nand the second line.\n" * 40


@pytest.fixture
def checkpoint(tiny_fit: Fit) -> str:
    return str(tiny_fit("--max_steps=20", "--val_check_interval=20").best.best_model_path)


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
