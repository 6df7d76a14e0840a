"""Documents become windows, and windows become padded batches."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.data.windows import (
    Documents,
    Sampling,
    WindowLoader,
    Windows,
    collate,
    encode_documents,
    grid_windows,
    random_windows,
)
from shakespeare_lm.errors import UserError

PADDING = 99


def numbered(*lengths: int) -> Documents:
    """Return documents whose ids are their positions: every id tells where it comes from."""
    return Documents(torch.arange(sum(lengths)), torch.tensor(lengths))


def loader(documents: Documents, sampling: Sampling = "sequential", **options: int) -> WindowLoader:
    sizes = {"context_length": 4, "batch_size": 3, **options}
    return WindowLoader(documents, padding_id=10_000, sampling=sampling, **sizes)


def real_targets(batches: WindowLoader) -> list[int]:
    return [i for batch in batches for i in batch.targets[batch.target_mask].tolist()]


def test_a_document_is_cut_beside_the_grid_and_keeps_its_short_rest() -> None:
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


def test_a_batch_is_shifted_once_and_padded_on_the_right() -> None:
    batch = collate(
        torch.tensor([5, 6, 7, 8]), Windows(torch.tensor([0, 2]), torch.tensor([4, 2])), 3, PADDING
    )
    assert batch.inputs.tolist() == [[5, 6, 7], [7, 8, PADDING]]
    assert batch.targets.tolist() == [[6, 7, 8], [8, PADDING, PADDING]]
    assert batch.attention_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.target_mask.tolist() == [[True, True, True], [True, False, False]]


def test_a_window_of_no_characters_is_a_row_of_padding() -> None:
    batch = collate(torch.tensor([5, 6]), Windows(torch.tensor([1]), torch.tensor([0])), 2, PADDING)
    assert batch.inputs.tolist() == [[PADDING, PADDING]]
    assert not batch.attention_mask.any()
    assert not batch.target_mask.any()


def test_a_batch_holds_ids_that_embeddings_take() -> None:
    batch = collate(
        torch.tensor([5, 6], dtype=torch.uint8),
        Windows(torch.tensor([0]), torch.tensor([2])),
        2,
        300,
    )
    assert batch.inputs.tolist() == [[5, 6]]
    assert batch.inputs.dtype == batch.targets.dtype == torch.long


@pytest.mark.parametrize("sampling", ["sequential", "grid", "shifted"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(2,), (5,), (41,), (9, 1, 2, 30), (4, 4, 4)])
def test_each_character_but_a_documents_first_is_a_target_exactly_once_per_epoch(
    sampling: Sampling, world_size: int, lengths: tuple[int, ...]
) -> None:
    documents = numbered(*lengths)
    firsts = {sum(lengths[:i]) for i in range(len(lengths))}
    loaders = [
        loader(documents, sampling, seed=7, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _epoch in range(4):
        targets = [target for part in loaders for target in real_targets(part)]
        assert Counter(targets) == Counter(set(range(sum(lengths))) - firsts)


def test_every_process_gets_as_many_batches_of_the_same_shape() -> None:
    documents = numbered(50, 3)
    for rank in range(3):
        batches = list(loader(documents, "shifted", rank=rank, world_size=3))
        assert len(batches) == len(loader(documents, "shifted", rank=rank, world_size=3)) == 2
        assert {tuple(batch.inputs.shape) for batch in batches} == {(3, 4)}


def test_inputs_precede_their_targets_in_every_sampling() -> None:
    for sampling in ("sequential", "grid", "shifted", "random"):
        for batch in loader(numbered(60, 7), sampling):
            step = (batch.targets - batch.inputs)[batch.target_mask]
            assert torch.equal(step, torch.ones_like(step))


def test_sequential_windows_keep_the_order_of_the_text() -> None:
    assert real_targets(loader(numbered(30))) == list(range(1, 30))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, same, other = (loader(numbered(200), "shifted", seed=seed) for seed in (1, 1, 2))
    epochs = [real_targets(first), real_targets(first)]
    assert epochs[0] != epochs[1]
    assert epochs == [real_targets(same), real_targets(same)]
    assert epochs[0] != real_targets(other)


def test_a_shifted_grid_moves_between_epochs_and_a_grid_does_not() -> None:
    def starts(sampling: Sampling) -> list[set[int]]:
        batches = loader(numbered(101), sampling)
        return [set(batches.windows(epoch).starts.tolist()) for epoch in range(6)]

    assert all(epoch == set(range(0, 100, 4)) for epoch in starts("grid"))
    assert len({frozenset(epoch) for epoch in starts("shifted")}) > 1


def test_random_windows_start_anywhere_and_end_with_their_document() -> None:
    lengths, generator = torch.tensor([6, 1, 9]), torch.Generator().manual_seed(0)
    windows = random_windows(lengths, context_length=4, count=2000, generator=generator)
    assert set(windows.starts.tolist()) == {0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14}
    ends = windows.starts + windows.sizes
    assert bool(((windows.starts < 6) & (ends <= 6) | (windows.starts >= 7) & (ends <= 16)).all())
    full = (windows.starts <= 1) | (windows.starts >= 7) & (windows.starts <= 11)
    assert torch.equal(windows.sizes[full], torch.full_like(windows.sizes[full], 5))


def test_a_loader_resumed_anywhere_goes_on_with_the_very_next_batch() -> None:
    def text(batches: list[Tensor]) -> list[list[list[int]]]:
        return [batch.tolist() for batch in batches]

    whole = loader(numbered(60), "shifted", seed=3)
    epochs = [[batch.targets for batch in whole] for _ in range(3)]
    for stopped_after in range(1, len(whole) + 1):
        first = loader(numbered(60), "shifted", seed=3)
        _ = list(first)
        iterator = iter(first)
        for _ in range(stopped_after):
            next(iterator)
        resumed = loader(numbered(60), "shifted", seed=3)
        resumed.load_state_dict(first.state_dict())
        expected = epochs[1][stopped_after:] or epochs[2]
        assert text([batch.targets for batch in resumed]) == text(expected)


def test_a_place_in_other_batches_is_refused() -> None:
    state = loader(numbered(60), batch_size=3).state_dict()
    with pytest.raises(UserError, match="has 5 batches, but one of this run 3"):
        loader(numbered(60), batch_size=5).load_state_dict(state)


def test_whole_documents_are_encoded_as_the_tokenizer_encodes_them() -> None:
    documents = ["Grüße, 世界!\n", "", "🎭 to be 🎭" * 3]
    tokenizer = CharTokenizer.from_text(*documents)
    encoded = encode_documents(documents, tokenizer)
    assert encoded.ids.tolist() == tokenizer.encode("".join(documents))
    assert encoded.lengths.tolist() == [len(document) for document in documents]


def test_up_to_256_symbols_take_one_byte_a_character() -> None:
    few, many = ("".join(map(chr, range(1000, 1000 + count))) for count in (256, 257))
    assert encode_documents([few], CharTokenizer.from_text(few)).ids.dtype == torch.uint8
    encoded = encode_documents([many], CharTokenizer.from_text(many))
    assert encoded.ids.tolist() == list(range(257))
    assert encoded.ids.element_size() == 2


def test_documents_longer_than_one_slice_are_encoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shakespeare_lm.data.windows._CHARACTERS_PER_SLICE", 3)
    text = "abcdefgh"
    assert encode_documents([text], CharTokenizer.from_text(text)).ids.tolist() == list(range(8))


def test_gathering_in_several_goes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = real_targets(loader(numbered(100), "grid"))
    monkeypatch.setattr("shakespeare_lm.data.windows._CHARACTERS_PER_GATHER", 24)
    assert real_targets(loader(numbered(100), "grid")) == at_once
