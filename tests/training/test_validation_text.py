"""The lines that pictures and samples are made of come from the validation part."""

import torch
from pytorch_lightning import Trainer

from shakespeare_lm.data.documents import encode_documents
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.training.validation_text import long_lines, validation_loader
from tests.conftest import Fit
from tests.training.test_module import trainer


def lines_of(text: str, count: int) -> list[str]:
    tokenizer = CharTokenizer.from_text(text)
    return long_lines(encode_documents([text], tokenizer), tokenizer, count)


def test_lines_are_long_and_evenly_spaced() -> None:
    lines = [f"this is a long line, number {number}" for number in range(6)]
    text = "ROMEO:\n" + "\nshort\n".join(lines)
    assert lines_of(text, 1) == lines[:1]
    assert lines_of(text, 2) == [lines[0], lines[3]]
    assert lines_of(text, 9) == lines


def test_a_text_without_long_lines_gives_its_beginning() -> None:
    assert lines_of("a\nb\n" * 10, 2) == ["a\nb\n" * 5]


def test_the_loader_is_that_of_the_validation_part(tiny_fit: Fit) -> None:
    cli = tiny_fit("--max_steps=1")
    loader = validation_loader(cli.trainer)
    assert loader is not None
    assert torch.equal(loader.documents.ids, cli.datamodule.encoded["val"].ids)


def test_other_loaders_have_no_text() -> None:
    run: Trainer = trainer()
    assert validation_loader(run) is None
