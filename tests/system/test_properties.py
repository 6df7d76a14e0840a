"""Properties that hold for any text and any sizes, tested on thousands of generated examples.

Texts are of all Unicode: combining marks, characters beyond 16 bits, NUL, byte order marks, every
kind of line end. The examples are the same in every run.
"""

import contextlib
import io
import sys
import tempfile
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shakespeare_lm.commands.complete import main as complete
from shakespeare_lm.commands.fit_cli import expand_short_names
from shakespeare_lm.completion.sampling import SamplingOptions, next_ids, next_probabilities
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.data.corpus import load_corpus
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.loader import WindowLoader, WindowOrder
from shakespeare_lm.data.splits import (
    SplitKind,
    split_contiguous,
    split_random_chunks,
    split_whole_documents,
)
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import Documents, encode_documents, grid_windows
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

# Few different characters, so that repeats and common prefixes are frequent.
few = st.text("ab\n", max_size=30)
anything = st.text(max_size=60)
odd = st.sampled_from(["\ufeff", "\r\n", "\x00", "e\u0301", "\U0001f3ad", "\u2028", "\u200d", "ﬁ"])
texts = st.one_of(few, anything, st.lists(odd, max_size=12).map("".join))
some_text = texts.filter(bool)
documents = st.lists(texts, min_size=1, max_size=6).filter(any)
sizes = st.integers(1, 12)
fractions = st.floats(0, 0.49)


def examples(count: int):
    """Return settings for so many examples, without limits on time."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


# --- tokenizer ---


@examples(300)
@given(some_text, texts)
@example("\ufeff", "\r\n")
def test_decoding_undoes_encoding(text: str, other: str) -> None:
    tokenizer = CharTokenizer.from_text(text, other)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids, mask = tokenizer.batch_encode([text, other])
    assert tokenizer.batch_decode(ids) == [text, other]
    assert [sum(row) for row in mask] == [len(text), len(other)]
    assert CharTokenizer(tokenizer.vocabulary).encode(text) == tokenizer.encode(text)


@examples(200)
@given(some_text, texts)
def test_unknown_characters_are_refused_skipped_or_replaced(known: str, text: str) -> None:
    tokenizer = CharTokenizer.from_text(known)
    if set(text) <= set(known):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    else:
        with pytest.raises(UserError, match=r"is not among the \d+ characters") as caught:
            tokenizer.encode(text)
        assert "\n" not in str(caught.value)
    kept = "".join(character for character in text if character in known)
    assert tokenizer.decode(tokenizer.encode(text, "skip")) == kept
    replaced = tokenizer.decode(tokenizer.encode(text, "replace"))
    assert set(replaced) <= set(known)


@examples(50)
@given(texts, st.integers(0xD800, 0xDFFF))
def test_a_lone_surrogate_is_refused(text: str, surrogate: int) -> None:
    with pytest.raises(UserError, match="lone surrogate"):
        CharTokenizer.from_text(text + chr(surrogate))
    with pytest.raises(UserError, match="is not among"):
        CharTokenizer("ab").encode(chr(surrogate))


# --- windows and batches ---


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


@examples(400)
@given(
    documents,
    sizes,
    sizes,
    st.sampled_from(["sequential", "grid", "shifted"]),
    st.integers(0, 9),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
)
def test_every_character_but_a_documents_first_is_predicted_once_per_epoch(
    pieces: list[str],
    context_length: int,
    batch_size: int,
    order: WindowOrder,
    seed: int,
    world_size: int,
    epoch: int,
    fill_rows: bool,
) -> None:
    tokenizer = CharTokenizer.from_text(*pieces)
    encoded = encode_documents(pieces, tokenizer)
    ids = [tokenizer.encode(piece) for piece in pieces]
    expected = Counter(pair for row in ids for pair in pairwise(row))
    found: Counter[tuple[int, ...]] = Counter()
    lengths = set()
    for rank in range(world_size):
        loader = WindowLoader(
            encoded,
            context_length=context_length,
            batch_size=batch_size,
            padding_id=tokenizer.padding_id,
            window_order=order,
            seed=seed,
            fill_rows=fill_rows,
            rank=rank,
            world_size=world_size,
        )
        loader.set_epoch(epoch)
        lengths.add(len(loader))
        found += targets_of(loader)
    assert found == expected
    assert len(lengths) == 1


@examples(100)
@given(documents, sizes, sizes, st.integers(0, 9), st.data())
def test_a_loader_can_be_resumed_after_any_batch(
    pieces: list[str], context_length: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    tokenizer = CharTokenizer.from_text(*pieces)
    encoded = encode_documents(pieces, tokenizer)

    def loader() -> WindowLoader:
        return WindowLoader(
            encoded,
            context_length=context_length,
            batch_size=batch_size,
            padding_id=tokenizer.padding_id,
            window_order="shifted",
            seed=seed,
        )

    whole, interrupted = loader(), loader()
    batches = list(whole)
    stop = data.draw(st.integers(0, len(batches)))
    iterator = iter(interrupted)
    seen = [next(iterator) for _ in range(stop)]
    resumed = loader()
    if stop:
        resumed.load_state_dict(interrupted.state_dict())
    later = list(resumed) if stop < len(batches) or not batches else []
    for one, other in zip([*seen, *later], batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@examples(200)
@given(st.lists(st.integers(0, 40), max_size=8), sizes, st.data())
def test_windows_are_no_longer_than_the_context_and_never_cross_documents(
    lengths: list[int], context_length: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, context_length - 1))
    windows = grid_windows(torch.tensor(lengths, dtype=torch.long), context_length, offset)
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    for start, size in zip(windows.starts.tolist(), windows.sizes.tolist(), strict=True):
        assert 2 <= size <= context_length + 1
        document = next(number for number, end in enumerate(ends) if start < end)
        assert start + size <= ends[document]
    assert int((windows.sizes - 1).sum()) == sum(max(0, length - 1) for length in lengths)


# --- splits ---


@examples(300)
@given(documents, fractions, fractions)
def test_a_contiguous_split_loses_and_repeats_nothing(
    pieces: list[str], val_fraction: float, test_fraction: float
) -> None:
    parts = split_contiguous(pieces, val_fraction, test_fraction)
    assert "".join("".join(part) for part in parts) == "".join(pieces)
    total = sum(map(len, pieces))
    assert abs(sum(map(len, parts.val)) - total * val_fraction) <= 1
    assert abs(sum(map(len, parts.test)) - total * test_fraction) <= 1


@examples(200)
@given(documents, fractions, fractions, sizes, st.integers(0, 9))
def test_random_chunks_lose_and_repeat_no_character_to_predict(
    pieces: list[str], val_fraction: float, test_fraction: float, context_length: int, seed: int
) -> None:
    parts = split_random_chunks(pieces, val_fraction, test_fraction, context_length, seed)
    found = Counter(pair for part in parts for c in part for pair in pairwise(c))
    expected = Counter(pair for piece in pieces for pair in pairwise(piece))
    assert found == expected


@examples(300)
@given(documents, fractions, fractions)
def test_a_split_by_documents_keeps_each_whole_and_gives_every_part_one(
    pieces: list[str], val_fraction: float, test_fraction: float
) -> None:
    num_parts = 3 if test_fraction else 2
    if len(pieces) < num_parts:
        with pytest.raises(UserError, match=f"{len(pieces)} document.*at least {num_parts}"):
            split_whole_documents(pieces, val_fraction, test_fraction)
        return
    parts = split_whole_documents(pieces, val_fraction, test_fraction)
    assert [piece for part in parts for piece in part] == pieces
    assert [bool(part) for part in parts] == [True, True, bool(test_fraction)]


# --- files ---


@examples(300)
@given(st.one_of(st.binary(max_size=80), texts.map(lambda text: text.encode("utf-8"))))
@example(b"\xed\xa0\x80")  # a surrogate, encoded like UTF-8
@example(b"\xef\xbb\xbf")
@example(b"a\r\nb\rc")
def test_any_file_is_read_to_the_last_byte_or_refused_in_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_bytes(content)
        message = ""
        try:
            (text,) = load_corpus(str(path))
        except UserError as error:
            message = str(error)
        if message:
            assert "\n" not in message
            assert str(path) in message
        else:
            assert text.encode("utf-8") == content.removeprefix(b"\xef\xbb\xbf")
            CharTokenizer.from_text(text)


@examples(200)
@given(
    documents,
    st.integers(-1, 20),
    st.integers(-1, 20),
    st.floats(-0.1, 1.1) | st.just(float("nan")),
    st.floats(-0.1, 1.1),
    st.sampled_from(["contiguous", "documents", "random_chunks"]),
)
def test_any_texts_and_sizes_give_batches_or_an_error_in_one_line(
    pieces: list[str],
    context_length: int,
    batch_size: int,
    val_fraction: float,
    test_fraction: float,
    split: SplitKind,
) -> None:
    message, data = "", None
    try:
        data = ShakespeareDataModule(
            context_length=context_length,
            batch_size=batch_size,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split=split,
        )
        data.documents = pieces
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "split is random_chunks")
            data.setup()
    except UserError as error:
        message = str(error)
    if message:
        assert "\n" not in message
        return
    assert data is not None
    for loader in (data.train_dataloader(), *data.val_dataloader()):
        assert sum(targets_of(loader).values()) > 0


# --- stopping and sampling ---


@examples(300)
@given(few, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.none() | sizes)
def test_the_text_before_the_first_stop_string_or_last_line_is_shown(
    text: str, stops: list[str], max_lines: int | None
) -> None:
    stop_strings = StopStrings(stops, max_lines)
    shown, taken = "", 0
    for character in text:
        shown += stop_strings.add(character)
        taken += 1
        assert text.startswith(shown)
        if stop_strings.reached:
            break
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


@examples(200)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9),
    st.floats(0, 100),
    st.none() | st.integers(1, 12),
    st.none() | st.floats(0.001, 1),
    st.none() | st.floats(0.001, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_any_logits_and_filters_give_an_id_of_positive_probability(
    row: list[float],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    uniform: float,
) -> None:
    logits = torch.tensor([row])
    before = logits.clone()
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    chosen = int(next_ids(logits, options, [uniform]))
    assert torch.equal(logits, before)
    probabilities = next_probabilities(logits, options)[0]
    assert float(probabilities.sum()) == pytest.approx(1)
    assert probabilities[chosen] > 0
    assert top_k is None or int((probabilities > 0).sum()) <= top_k


# --- command lines ---


@examples(200)
@given(st.lists(st.one_of(texts, st.sampled_from(["--max_steps", "--seed=3", "-c", "--"]))))
def test_expanding_short_names_changes_only_names(arguments: list[str]) -> None:
    names = ["max_steps", "devices"]
    expanded = expand_short_names(arguments, names)
    assert len(expanded) == len(arguments)
    for before, after in zip(arguments, expanded, strict=True):
        if before != after:
            assert before.startswith("--")
            assert after.partition("=")[1:] == before.partition("=")[1:]
    assert expand_short_names(expanded, names) == expanded


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = ShakespeareLM("\n ab", context_length=8, num_layers=1, num_heads=2, d_model=8)
    return save(tmp_path_factory.mktemp("model") / "a.ckpt", module)


numbers = st.one_of(st.integers(-2, 20).map(str), st.floats(-1, 2).map(str), texts)


@examples(200)
@given(
    texts,
    st.dictionaries(
        st.sampled_from(
            ["temperature", "top_k", "top_p", "min_p", "seed", "max_lines", "num_samples"]
        ),
        numbers,
        max_size=3,
    ),
    st.lists(texts, max_size=2),
    st.sampled_from(["error", "skip", "replace"]),
)
def test_any_options_complete_or_end_in_an_error_of_one_line(
    checkpoint: Path, prompt: str, options: dict[str, str], stops: list[str], unknown: str
) -> None:
    arguments = [f"--ckpt={checkpoint}", f"--prompt={prompt}", "--max_new_tokens=9"]
    arguments += [f"--{name}={value}" for name, value in options.items()]
    arguments += [f"--stop={stop}" for stop in stops] + [f"--unknown={unknown}"]
    output, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    original_stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(b"ab"))
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            code = complete(arguments)
    except SystemExit as stopped:  # argparse, for a value that is not a number
        code = stopped.code  # type: ignore[assignment]
    finally:
        sys.stdin = original_stdin
    assert code in (0, 1, 2)
    lines = read(error).splitlines()
    if code == 1:
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert not read(output)


def read(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


# --- large ---


@pytest.mark.slow
def test_a_text_of_200_megabytes_takes_one_byte_per_character(tmp_path: Path) -> None:
    line = "To be, or not to be, that is the question:\n"
    count = 200_000_000 // len(line)
    with (tmp_path / "large.txt").open("w") as file:
        for _ in range(count // 1000):
            file.write(line * 1000)
    data = ShakespeareDataModule(corpus=str(tmp_path / "large.txt"))
    data.setup()
    parts: dict[str, Documents] = data.encoded
    assert sum(part.ids.numel() for part in parts.values()) == count // 1000 * 1000 * len(line)
    assert {part.ids.dtype for part in parts.values()} == {torch.uint8}
    batch = next(iter(data.train_dataloader()))
    assert batch.target_mask.any()
