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

PADDING = 99


def test_a_document_is_cut_along_the_grid_and_keeps_its_short_last_window() -> None:
    windows = grid_windows(torch.tensor([8]), context_length=3)
    assert windows.starts.tolist() == [0, 3, 6]
    assert windows.sizes.tolist() == [4, 4, 2]


def test_an_offset_makes_the_first_window_short() -> None:
    windows = grid_windows(torch.tensor([8]), context_length=3, offset=2)
    assert windows.starts.tolist() == [0, 2, 5]
    assert windows.sizes.tolist() == [3, 4, 3]


def test_windows_never_cross_documents_and_a_single_character_has_none() -> None:
    windows = grid_windows(torch.tensor([3, 1, 0, 5]), context_length=3)
    assert windows.starts.tolist() == [0, 4, 7]
    assert windows.sizes.tolist() == [3, 4, 2]


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_document_no_longer_than_the_offset_is_one_window(offset: int) -> None:
    windows = grid_windows(torch.tensor([2, 3]), context_length=3, offset=offset)
    expected = {0: ([0, 2], [2, 3]), 1: ([0, 2, 3], [2, 2, 2]), 2: ([0, 2], [2, 3])}
    assert (windows.starts.tolist(), windows.sizes.tolist()) == expected[offset]


def test_halves_share_one_id_and_stay_next_to_each_other() -> None:
    windows = Windows(torch.tensor([0, 3, 4, 8]), torch.tensor([4, 2, 5, 3]))
    halved = halve_windows(windows, 2)
    assert halved.starts.tolist() == [0, 1, 3, 4, 6, 8]
    assert halved.sizes.tolist() == [2, 3, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("count", "halved"), [(0, []), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (10, range(10))]
)
def test_halved_windows_are_evenly_spaced(count: int, halved: list[int]) -> None:
    windows = grid_windows(torch.tensor([41]), context_length=4)
    starts = set(halve_windows(windows, count).starts.tolist())
    assert sorted(starts - set(windows.starts.tolist())) == [4 * n + 2 for n in halved]


def test_a_window_with_one_target_stays_whole_and_none_is_halved_twice() -> None:
    windows = Windows(torch.tensor([0, 1, 2, 6]), torch.tensor([2, 2, 5, 2]))
    halved = halve_windows(windows, 100)
    assert halved.starts.tolist() == [0, 1, 2, 4, 6]
    assert halved.sizes.tolist() == [2, 2, 3, 3, 2]


def test_no_window_can_be_halved() -> None:
    for windows in (grid_windows(torch.tensor([1]), 4), grid_windows(torch.tensor([2, 2]), 4)):
        halved = halve_windows(windows, 3)
        assert torch.equal(halved.starts, windows.starts)
        assert torch.equal(halved.sizes, windows.sizes)


def test_random_windows_start_anywhere_and_end_with_their_document() -> None:
    lengths, generator = torch.tensor([6, 1, 9]), torch.Generator().manual_seed(0)
    windows = random_windows(lengths, context_length=4, count=2000, generator=generator)
    assert set(windows.starts.tolist()) == {0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14}
    ends = windows.starts + windows.sizes
    assert bool(((windows.starts < 6) & (ends <= 6) | (windows.starts >= 7) & (ends <= 16)).all())
    full = (windows.starts <= 1) | (windows.starts >= 7) & (windows.starts <= 11)
    assert torch.equal(windows.sizes[full], torch.full_like(windows.sizes[full], 5))


def test_random_windows_are_uniform_over_all_starts() -> None:
    lengths, generator = torch.tensor([6, 1, 9]), torch.Generator().manual_seed(0)
    windows = random_windows(lengths, context_length=4, count=13_000, generator=generator)
    counts = windows.starts.bincount()[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14]]
    # A binomial count of mean 1000 has a standard deviation of 30.
    assert bool(((counts - 1000).abs() < 150).all())


def test_a_batch_is_shifted_once_and_padded_on_the_right() -> None:
    batch = collate(
        torch.tensor([5, 6, 7, 8]), Windows(torch.tensor([0, 2]), torch.tensor([4, 2])), 3, PADDING
    )
    assert batch.inputs.tolist() == [[5, 6, 7], [7, 8, PADDING]]
    assert batch.targets.tolist() == [[6, 7, 8], [8, PADDING, PADDING]]
    assert batch.attention_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.target_mask.tolist() == [[True, True, True], [True, False, False]]


def test_a_window_of_size_0_is_a_row_of_padding() -> None:
    batch = collate(torch.tensor([5, 6]), Windows(torch.tensor([1]), torch.tensor([0])), 2, PADDING)
    assert batch.inputs.tolist() == [[PADDING, PADDING]]
    assert batch.targets.tolist() == [[PADDING, PADDING]]
    assert not batch.attention_mask.any()
    assert not batch.target_mask.any()


def test_a_batch_holds_integers_of_the_type_that_embeddings_need() -> None:
    batch = collate(
        torch.tensor([5, 6], dtype=torch.uint8),
        Windows(torch.tensor([0]), torch.tensor([2])),
        2,
        300,  # does not fit into the type of the ids
    )
    assert batch.inputs.tolist() == [[5, 6]]
    assert batch.targets.tolist() == [[6, 300]]
    assert batch.inputs.dtype == batch.targets.dtype == torch.long


def test_whole_documents_are_encoded_as_the_tokenizer_encodes_them() -> None:
    documents = ["Grüße, 世界!\n", "", "🎭 to be 🎭" * 3]
    tokenizer = CharTokenizer.from_text(*documents)
    encoded = encode_documents(documents, tokenizer)
    assert encoded.ids.tolist() == tokenizer.encode("".join(documents))
    assert encoded.lengths.tolist() == [len(document) for document in documents]


def test_ids_are_indices_in_a_vocabulary_of_any_order() -> None:
    assert encode_documents(["abc"], CharTokenizer("cab")).ids.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("symbols", "dtype"),
    [
        (256, torch.uint8),
        (257, torch.int16),
        (1 << 15, torch.int16),
        ((1 << 15) + 1, torch.int32),
    ],
)
def test_ids_take_the_smallest_integer_type_that_holds_them(
    symbols: int, dtype: torch.dtype
) -> None:
    text = "".join(map(chr, range(0x10000, 0x10000 + symbols)))
    encoded = encode_documents([text], CharTokenizer(text))
    assert encoded.ids.dtype == dtype
    assert encoded.ids.tolist() == list(range(symbols))


def test_documents_longer_than_one_slice_are_encoded_completely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shakespeare_lm.data.windows._CHARACTERS_PER_SLICE", 3)
    encoded = encode_documents(["abcdefgh", "hg"], CharTokenizer("abcdefgh"))
    assert encoded.ids.tolist() == [*range(8), 7, 6]


def test_no_documents_are_no_ids() -> None:
    encoded = encode_documents([], CharTokenizer("a"))
    assert encoded.ids.tolist() == []
    assert encoded.lengths.tolist() == []
    assert encoded.lengths.dtype == torch.long
