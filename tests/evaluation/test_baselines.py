"""Baselines: models that count, compressors, and how a loss compares with them."""

import math
import random
import sys

import pytest

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import encode_documents
from shakespeare_lm.evaluation.baselines import (
    COMPRESSORS,
    Baseline,
    added_bits,
    compressed,
    compressors,
    counted,
    verdict,
)

TRAIN, TEXT = ["the cat sat on the mat. " * 30, "a rat. "], ["the rat sat on the cat."]


def test_counting_models_are_uniform_unigram_and_up_to_eight() -> None:
    tokenizer = CharTokenizer.from_text(*TRAIN, *TEXT)
    known, text = (encode_documents(documents, tokenizer) for documents in (TRAIN, TEXT))
    found = {one.name: one.nats for one in counted(known, text, len(tokenizer.vocabulary))}
    assert [*found] == ["uniform", "unigram", *(f"{n}-gram" for n in range(2, 9))]
    assert found["uniform"] == pytest.approx(math.log(len(tokenizer.vocabulary)))
    assert found["3-gram"] < found["2-gram"] < found["unigram"] < found["uniform"]


@pytest.mark.parametrize(("nats", "sentence"), [
    (1.5349, "1.5349: better than a 5-gram (1.5612), worse than an 8-gram (1.5192)"),
    (1.4474, "1.4474: better than every n-gram; the best is a 7-gram (1.5165)"),
    (2.0, "2.0000: worse than a 5-gram (1.5612)"),
])  # fmt: skip
def test_the_verdict_compares_a_loss_with_n_grams_alone(nats: float, sentence: str) -> None:
    others = [Baseline("uniform", 4.17), Baseline("unigram", 3.35), Baseline("zlib", 2.1)]
    ngrams = {"5-gram": 1.5612, "7-gram": 1.5165, "8-gram": 1.5192}
    assert verdict(nats, [*others, *(Baseline(*ngram) for ngram in ngrams.items())]) == sentence
    assert verdict(nats, others) == f"{nats:.4f} nats per character"


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressor_needs_few_bits_for_what_it_has_read(name: str) -> None:
    known, other = (bytes(random.Random(seed).choices(range(97, 123), k=2000)) for seed in (1, 2))
    compressor = COMPRESSORS[name]
    assert 0 < added_bits(compressor, known, known) < 0.6 * added_bits(compressor, known, other)
    (found,) = (one for one in compressed(TRAIN, TEXT) if one.name == name)
    assert found.note == "adaptive: learns while it reads"


@pytest.mark.parametrize("name", ["PPMd", "zpaq -m5"])
def test_stronger_compressors_are_there_if_they_are_installed(name: str) -> None:
    if (compressor := compressors().get(name)) is None:
        pytest.skip("needs the extra evaluate" if name == "PPMd" else "needs the program zpaq")
    text = b"To be, or not to be: that is the question. " * 20
    assert 0 < added_bits(compressor, text, text) < added_bits(COMPRESSORS["zlib"], text, text)


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    assert list(compressors()) == list(COMPRESSORS)
