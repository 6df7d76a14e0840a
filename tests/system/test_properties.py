"""Properties that hold for any text and any sizes, tested on thousands of generated examples.

Texts are of all Unicode: combining marks, characters beyond 16 bits, NUL, byte order marks, every
kind of line end. The examples are the same in every run.
"""

import tempfile
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shakespeare_lm.commands.fit_parser import spell_out
from shakespeare_lm.completion.sampling import SamplingOptions, next_ids, next_probabilities
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.loader import WindowLoader
from shakespeare_lm.data.splits import split_contiguous, split_random_chunks
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents, encode_documents
from shakespeare_lm.errors import UserError

# Few different characters, so that repeats and common prefixes are frequent.
few = st.text("ab\n", max_size=30)
odd = st.sampled_from(["\ufeff", "\r\n", "\x00", "e\u0301", "\U0001f3ad", "\u2028", "\u200d", "ﬁ"])
texts = st.one_of(few, st.text(max_size=60), st.lists(odd, max_size=12).map("".join))
some_text = texts.filter(bool)
documents = st.lists(texts, min_size=1, max_size=6).filter(any)
sizes = st.integers(1, 12)
fractions = st.floats(0, 0.49)
loader_options = st.fixed_dictionaries(
    {
        "context_length": sizes,
        "batch_size": sizes,
        "window_order": st.sampled_from(["sequential", "grid", "shifted"]),
        "seed": st.integers(0, 9),
        "fill_rows": st.booleans(),
    }
)
# No limits on time.
examples = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def assert_one_line(error: UserError, words: str = "") -> None:
    assert "\n" not in str(error)
    assert words in str(error)


@examples
@given(some_text, texts)
@example("\ufeff", "\r\n")
def test_decoding_undoes_encoding(text: str, other: str) -> None:
    tokenizer = CharTokenizer.from_text(text, other)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids, mask = tokenizer.batch_encode([text, other])
    assert tokenizer.batch_decode(ids) == [text, other]
    assert [sum(row) for row in mask] == [len(text), len(other)]
    assert CharTokenizer(tokenizer.vocabulary).encode(text) == tokenizer.encode(text)


@examples
@given(texts, st.integers(0xD800, 0xDFFF))
def test_a_lone_surrogate_is_refused(text: str, surrogate: int) -> None:
    with pytest.raises(UserError, match="lone surrogate"):
        CharTokenizer.from_text(text + chr(surrogate))
    with pytest.raises(UserError, match="is not among"):
        CharTokenizer("ab").encode(chr(surrogate))


def loader_of(pieces: list[str], **options: Any) -> WindowLoader:
    tokenizer = CharTokenizer.from_text(*pieces)
    encoded = encode_documents(pieces, tokenizer)
    return WindowLoader(encoded, padding_id=tokenizer.padding_id, **options)


def targets_of(loader: WindowLoader) -> Counter[tuple[int, ...]]:
    """Count the pairs (input, target) of all real targets, after checking the batches."""
    found: Counter[tuple[int, ...]] = Counter()
    for batch in loader:
        assert batch.inputs.shape == (loader.batch_size, loader.context_length)
        assert torch.equal(batch.inputs == loader.padding_id, ~batch.attention_mask)
        assert torch.equal(batch.targets == loader.padding_id, ~batch.target_mask)
        assert not (batch.target_mask & ~batch.attention_mask).any()
        # Padding is on the right, and each target is the next input.
        assert (batch.attention_mask.int().diff(dim=1) <= 0).all()
        both = batch.target_mask[:, :-1]
        assert torch.equal(batch.targets[:, :-1][both], batch.inputs[:, 1:][both])
        real = batch.target_mask
        found.update(zip(batch.inputs[real].tolist(), batch.targets[real].tolist(), strict=True))
    return found


@examples
@given(documents, loader_options, st.integers(1, 4), st.integers(0, 3))
def test_every_character_but_a_documents_first_is_predicted_once_per_epoch(
    pieces: list[str], options: dict[str, Any], world_size: int, epoch: int
) -> None:
    tokenizer = CharTokenizer.from_text(*pieces)
    expected = Counter(pair for piece in pieces for pair in pairwise(tokenizer.encode(piece)))
    found: Counter[tuple[int, ...]] = Counter()
    lengths = set()
    for rank in range(world_size):
        loader = loader_of(pieces, **options, rank=rank, world_size=world_size)
        loader.set_epoch(epoch)
        lengths.add(len(loader))
        found += targets_of(loader)
    assert found == expected
    assert len(lengths) == 1


@examples
@given(documents, fractions, fractions)
def test_a_contiguous_split_loses_and_repeats_nothing(
    pieces: list[str], val_fraction: float, test_fraction: float
) -> None:
    parts = split_contiguous(pieces, val_fraction, test_fraction)
    assert "".join("".join(part) for part in parts) == "".join(pieces)
    total = sum(map(len, pieces))
    assert abs(sum(map(len, parts.val)) - total * val_fraction) <= 1
    assert abs(sum(map(len, parts.test)) - total * test_fraction) <= 1


@examples
@given(documents, fractions, fractions, sizes, st.integers(0, 9))
def test_random_chunks_lose_and_repeat_no_character_to_predict(
    pieces: list[str], val_fraction: float, test_fraction: float, context_length: int, seed: int
) -> None:
    parts = split_random_chunks(pieces, val_fraction, test_fraction, context_length, seed)
    found = Counter(pair for part in parts for chunk in part for pair in pairwise(chunk))
    assert found == Counter(pair for piece in pieces for pair in pairwise(piece))


@examples
@given(st.one_of(st.binary(max_size=80), texts.map(lambda text: text.encode("utf-8"))))
@example(b"\xed\xa0\x80")  # a surrogate, encoded like UTF-8
@example(b"\xef\xbb\xbf")
@example(b"a\r\nb\rc")
def test_any_file_is_read_to_the_last_byte_or_refused_in_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_bytes(content)
        try:
            (text,) = load_corpus(str(path))
        except UserError as error:
            assert_one_line(error, str(path))
        else:
            assert text.encode("utf-8") == content.removeprefix(b"\xef\xbb\xbf")
            CharTokenizer.from_text(text)


@examples
@given(
    documents,
    st.fixed_dictionaries(
        {
            "context_length": st.integers(-1, 20),
            "batch_size": st.integers(-1, 20),
            "val_fraction": st.floats(-0.1, 1.1) | st.just(float("nan")),
            "test_fraction": st.floats(-0.1, 1.1),
            "split": st.sampled_from(["contiguous", "documents", "random_chunks"]),
        }
    ),
)
def test_any_texts_and_sizes_give_batches_or_an_error_in_one_line(
    pieces: list[str], options: dict[str, Any]
) -> None:
    try:
        data = ShakespeareDataModule(**options)
        data.documents = pieces
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "split is random_chunks")
            data.setup()
    except UserError as error:
        assert_one_line(error)
    else:
        for loader in (data.train_dataloader(), *data.val_dataloader()):
            assert sum(targets_of(loader).values()) > 0


@examples
@given(few, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.none() | sizes)
def test_the_text_before_the_first_stop_string_or_last_line_is_shown(
    text: str, stops: list[str], max_lines: int | None
) -> None:
    stop_strings = StopStrings(stops, max_lines)
    shown, taken = "", 0
    while taken < len(text) and not stop_strings.reached:
        shown += stop_strings.add(text[taken])
        taken += 1
        assert text.startswith(shown)
    shown += stop_strings.rest()
    end, cut = len(text), 0
    for length in range(1, len(text) + 1):
        before = text[:length]
        found = [stop for stop in stops if before.endswith(stop)]
        if found or (max_lines is not None and before.count("\n") == max_lines):
            end, cut = length, max(map(len, found), default=1)
            break
    assert taken == end
    assert shown == text[: end - cut]


@examples
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9),
    st.builds(
        SamplingOptions,
        temperature=st.floats(0, 100),
        top_k=st.none() | sizes,
        top_p=st.none() | st.floats(0.001, 1),
        min_p=st.none() | st.floats(0.001, 1),
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_any_logits_and_filters_give_an_id_of_positive_probability(
    row: list[float], options: SamplingOptions, uniform: float
) -> None:
    logits = torch.tensor([row])
    before = logits.clone()
    chosen = int(next_ids(logits, options, [uniform]))
    assert torch.equal(logits, before)
    probabilities = next_probabilities(logits, options)[0]
    assert float(probabilities.sum()) == pytest.approx(1)
    assert probabilities[chosen] > 0
    assert options.top_k is None or int((probabilities > 0).sum()) <= options.top_k


@examples
@given(st.lists(st.one_of(texts, st.sampled_from(["--max_steps", "--seed=3", "-c", "--"]))))
def test_spelling_out_short_names_changes_only_names(words: list[str]) -> None:
    spelt_out = spell_out(words)
    for before, after in zip(words, spelt_out, strict=True):
        if before != after:
            assert before.startswith("--")
            assert after.partition("=")[1:] == before.partition("=")[1:]
    assert spell_out(spelt_out) == spelt_out


@pytest.mark.slow
def test_a_text_of_200_megabytes_takes_one_byte_per_character(tmp_path: Path) -> None:
    line = "To be, or not to be, that is the question:\n"
    count = 200_000_000 // len(line) // 1000 * 1000
    (tmp_path / "large.txt").write_text(line * count)
    data = ShakespeareDataModule(corpus=str(tmp_path / "large.txt"))
    data.setup()
    parts: dict[str, Documents] = data.encoded
    assert sum(part.ids.numel() for part in parts.values()) == count * len(line)
    assert {part.ids.dtype for part in parts.values()} == {torch.uint8}
    assert next(iter(data.train_dataloader())).target_mask.any()
