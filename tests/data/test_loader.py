"""The loader: which windows an epoch has, in which order, for which process, and after a resume."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from shakespeare_lm.data.loader import WindowLoader, WindowOrder
from shakespeare_lm.data.windows import Documents
from shakespeare_lm.errors import UserError
from tests.data.conftest import ENDLESS

of_every_order = pytest.mark.parametrize("order", ["sequential", "grid", "shifted", "random"])
filled_or_not = pytest.mark.parametrize("fill_rows", [False, True])


def numbered(*lengths: int) -> Documents:
    """Return documents whose ids are their positions: every id tells where it comes from."""
    return Documents(torch.arange(sum(lengths)), torch.tensor(lengths))


def loader(documents, order="sequential", **options):
    sizes = {"context_length": 4, "batch_size": 3, **options}
    return WindowLoader(documents, padding_id=10_000, window_order=order, **sizes)


def starts(order: WindowOrder, *epochs: int, **options: object) -> list[list[int]]:
    batches = loader(numbered(101), order, **options)
    return [batches.windows(epoch).starts.tolist() for epoch in epochs]


def real_targets(batches: WindowLoader) -> list[int]:
    return [i for batch in batches for i in batch.targets[batch.target_mask].tolist()]


def values(batches: list[Tensor]) -> list[list[list[int]]]:
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(2,), (5,), (41,), (9, 1, 2, 30), (4, 4, 4)])
@filled_or_not
def test_each_character_is_a_target_exactly_once_per_epoch(order, world_size, lengths, fill_rows):
    documents = numbered(*lengths)
    firsts = {sum(lengths[:i]) for i in range(len(lengths))}
    options = {"seed": 7, "fill_rows": fill_rows, "world_size": world_size}
    loaders = [loader(documents, order, rank=rank, **options) for rank in range(world_size)]
    for _epoch in range(4):
        targets = [target for part in loaders for target in real_targets(part)]
        assert Counter(targets) == Counter(set(range(sum(lengths))) - firsts)


@of_every_order
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("length", [21, 25, 30, 41, 60, 77])
def test_no_row_of_a_filled_epoch_is_empty(order, world_size, length):
    options = {"batch_size": 2, "world_size": world_size}
    for rank in range(world_size):
        batches = loader(numbered(length), order, rank=rank, fill_rows=True, **options)
        assert len(batches) == len(loader(numbered(length), order, rank=rank, **options))
        for _epoch in range(3):
            assert all(bool(batch.target_mask.any(dim=1).all()) for batch in batches)


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted"])
@pytest.mark.parametrize("lengths", [(2,), (3,), (5,), (11,), (2, 2, 2), (3, 2, 9), (6, 5)])
def test_rows_of_a_short_text_stay_empty_only_if_every_window_is_halved(order, lengths):
    options = {"batch_size": 8, "seed": 2}
    for epoch in range(4):
        whole = loader(numbered(*lengths), order, **options).windows(epoch)
        filled = loader(numbered(*lengths), order, fill_rows=True, **options).windows(epoch)
        divisible = int((whole.sizes > 2).sum())
        assert len(filled.starts) == min(8, len(whole.starts) + divisible)


@of_every_order
def test_inputs_precede_their_targets_in_every_order(order):
    for batch in loader(numbered(60, 7), order):
        assert set((batch.targets - batch.inputs)[batch.target_mask].tolist()) <= {1}


@filled_or_not
def test_sequential_windows_keep_the_order_of_the_text_and_are_spread_evenly(fill_rows):
    assert real_targets(loader(numbered(30), fill_rows=fill_rows)) == list(range(1, 30))
    batches = loader(numbered(41))  # 10 windows in 4 batches of up to 3
    assert [int(batch.target_mask.any(dim=1).sum()) for batch in batches] == [2, 3, 2, 3]


@filled_or_not
def test_the_order_depends_on_seed_and_epoch_alone(fill_rows):
    first, same, other = (
        loader(numbered(200), "shifted", seed=seed, fill_rows=fill_rows) for seed in (1, 1, 2)
    )
    epochs = [real_targets(first), real_targets(first)]
    assert epochs[0] != epochs[1]
    torch.manual_seed(4)
    assert epochs == [real_targets(same), real_targets(same)]
    assert epochs[0] != real_targets(other)


def test_a_grid_is_shuffled_anew_in_each_epoch_and_a_shifted_one_also_moves():
    grid = starts("grid", *range(6))
    assert all(sorted(epoch) == list(range(0, 100, 4)) for epoch in grid)
    assert len(set(map(tuple, [*grid, sorted(grid[0])]))) == 7
    assert len({frozenset(epoch) for epoch in starts("shifted", *range(6))}) > 1


def test_random_order_draws_as_many_windows_as_the_grid_has_or_as_there_are_rows_to_fill():
    first, second = starts("random", 0, 1)
    assert first != second
    assert any(start % 4 for start in first)
    assert len(first) == len(second) == len(starts("grid", 0)[0]) == 25
    assert len(starts("random", 0, world_size=2, fill_rows=True)[0]) == 5 * 2 * 3


def test_gathering_in_several_goes_changes_nothing(monkeypatch):
    at_once = real_targets(loader(numbered(100), "grid"))
    monkeypatch.setattr("shakespeare_lm.data.loader._CHARACTERS_PER_GATHER", 24)
    assert real_targets(loader(numbered(100), "grid")) == at_once


@filled_or_not
def test_a_loader_resumed_anywhere_continues_with_the_very_next_batch(fill_rows):
    def loader_of_run() -> WindowLoader:
        return loader(numbered(60), "shifted", seed=3, fill_rows=fill_rows)

    uninterrupted = loader_of_run()
    epochs = [[batch.targets for batch in uninterrupted] for _ in range(4)]
    for stopped_after in range(1, len(uninterrupted) + 1):
        first = loader_of_run()
        _ = list(first)
        iterator = iter(first)
        for _ in range(stopped_after):
            next(iterator)
        resumed = loader_of_run()
        resumed.load_state_dict(first.state_dict())
        expected = [*epochs[1][stopped_after:], *epochs[2]]
        found = [batch.targets for batch in resumed]
        if stopped_after < len(uninterrupted):
            found += [batch.targets for batch in resumed]  # the epoch after it is complete
        assert values(found) == values(expected)


def test_the_state_is_the_position_of_the_next_batch():
    batches, fresh = loader(numbered(60)), loader(numbered(60))
    assert batches.state_dict() == {"epoch": -1, "next_batch": 0, "batches": 5}
    fresh.load_state_dict(batches.state_dict())  # before it has begun: from the beginning
    assert real_targets(fresh) == list(range(1, 60))
    for epoch in range(2):
        states = [batches.state_dict() for _ in batches]
        assert states == [{"epoch": epoch, "next_batch": n, "batches": 5} for n in range(1, 6)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": ENDLESS}, "expected three integers"),  # without printing them
        ({"epoch": -2}, "invalid data position in the checkpoint"),
        ({"next_batch": -1}, "invalid data position in the checkpoint"),
        ({"next_batch": 6}, "invalid data position in the checkpoint"),
        ({"batches": 3}, "run has 3 batches, but one of this run has 5: resume with the text, bat"),
    ],
    ids=range(5),
)
def test_an_invalid_data_position_is_refused(changes, message):
    batches = loader(numbered(60))
    with pytest.raises(UserError, match=message):
        batches.load_state_dict({**batches.state_dict(), **changes})
