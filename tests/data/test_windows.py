"""Documents become ids, ids become windows, and windows become padded batches."""

import pytest
import torch

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import (
    Windows,
    collate,
    encode_documents,
    grid_windows,
    halve_windows,
    random_windows,
)

Lists = tuple[list[int], list[int]]


def windows_of(starts: list[int], sizes: list[int]) -> Windows:
    return Windows(torch.tensor(starts), torch.tensor(sizes))


def lists(windows: Windows) -> Lists:
    return windows.starts.tolist(), windows.sizes.tolist()


@pytest.mark.parametrize(
    ("lengths", "offset", "expected"),
    [
        ([8], 0, ([0, 3, 6], [4, 4, 2])),
        ([8], 2, ([0, 2, 5], [3, 4, 3])),
        ([3, 1, 0, 5], 0, ([0, 4, 7], [3, 4, 2])),
        ([2, 3], 0, ([0, 2], [2, 3])),
        ([2, 3], 1, ([0, 2, 3], [2, 2, 2])),
        ([2, 3], 2, ([0, 2], [2, 3])),
    ],
)
def test_each_document_is_cut_along_a_grid(lengths, offset, expected):
    assert lists(grid_windows(torch.tensor(lengths), 3, offset)) == expected


def test_halves_share_one_id_and_stay_next_to_each_other():
    halved = halve_windows(windows_of([0, 3, 4, 8], [4, 2, 5, 3]), 2)
    assert lists(halved) == ([0, 1, 3, 4, 6, 8], [2, 3, 2, 3, 3, 3])


@pytest.mark.parametrize(
    ("count", "halved"), [(0, []), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (10, range(10))]
)
def test_halved_windows_are_evenly_spaced(count, halved):
    windows = grid_windows(torch.tensor([41]), context_length=4)
    starts = set(halve_windows(windows, count).starts.tolist())
    assert sorted(starts - set(windows.starts.tolist())) == [4 * n + 2 for n in halved]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (([0, 1, 2, 6], [2, 2, 5, 2]), ([0, 1, 2, 4, 6], [2, 2, 3, 3, 2])),
        (([0, 2], [2, 2]), ([0, 2], [2, 2])),
        (([], []), ([], [])),
    ],
)
def test_a_window_with_one_target_stays_whole_and_none_is_halved_twice(windows, expected):
    assert lists(halve_windows(windows_of(*windows), 100)) == expected


def test_random_windows_start_anywhere_alike_and_end_with_their_document():
    lengths, generator = torch.tensor([6, 1, 9]), torch.Generator().manual_seed(0)
    windows = random_windows(lengths, context_length=4, count=13_000, generator=generator)
    starts = [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14]
    assert windows.starts.unique().tolist() == starts
    ends = torch.where(windows.starts < 6, 6, 16)
    assert torch.equal(windows.sizes, (ends - windows.starts).clamp(max=5))
    # A binomial count of mean 1000 has a standard deviation of 30.
    assert bool(((windows.starts.bincount()[starts] - 1000).abs() < 150).all())


def test_a_batch_is_shifted_once_and_padded_on_the_right():
    batch = collate(torch.tensor([5, 6, 7, 8]), windows_of([0, 2, 3], [4, 2, 0]), 3, 99)
    assert batch.inputs.tolist() == [[5, 6, 7], [7, 8, 99], [99] * 3]
    assert batch.targets.tolist() == [[6, 7, 8], [8, 99, 99], [99] * 3]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1], [1, 1, 0], [0] * 3]
    assert batch.target_mask.int().tolist() == [[1, 1, 1], [1, 0, 0], [0] * 3]


def test_a_batch_holds_integers_of_the_type_that_embeddings_need():
    ids = torch.tensor([5, 6], dtype=torch.uint8)  # into which the padding id does not fit
    batch = collate(ids, windows_of([0], [2]), 2, 300)
    assert (batch.inputs.tolist(), batch.targets.tolist()) == ([[5, 6]], [[6, 300]])
    assert batch.inputs.dtype == batch.targets.dtype == torch.long


@pytest.mark.parametrize("documents", [["Grüße, 世界!\n", "", "🎭 to be 🎭" * 3], ["cab"], []])
@pytest.mark.parametrize("per_slice", [3, 1 << 20])
def test_documents_are_encoded_as_the_tokenizer_encodes_them(documents, per_slice, monkeypatch):
    name = "shakespeare_lm.data.windows._CHARACTERS_PER_SLICE"
    monkeypatch.setattr(name, per_slice)
    tokenizer = CharTokenizer("".join(dict.fromkeys("".join(["ba", *documents]))))
    encoded = encode_documents(documents, tokenizer)
    assert encoded.ids.tolist() == tokenizer.encode("".join(documents))
    assert encoded.lengths.tolist() == [len(document) for document in documents]
    assert encoded.lengths.dtype == torch.long


@pytest.mark.parametrize(
    ("symbols", "dtype"),
    [(256, torch.uint8), (257, torch.int16), (1 << 15, torch.int16), ((1 << 15) + 1, torch.int32)],
)
def test_ids_take_the_smallest_integer_type_that_holds_them(symbols, dtype):
    text = "".join(map(chr, range(0x10000, 0x10000 + symbols)))
    encoded = encode_documents([text], CharTokenizer(text))
    assert encoded.ids.dtype == dtype
    assert encoded.ids.tolist() == list(range(symbols))


def test_positions_say_where_the_targets_are_in_the_text() -> None:
    ids = torch.randperm(30)
    batch = collate(ids, grid_windows(torch.tensor([20, 10]), 8), 8, padding_id=99)
    assert batch.target_mask.sum() == 19 + 9
    assert torch.equal(ids[batch.positions][batch.target_mask], batch.targets[batch.target_mask])
