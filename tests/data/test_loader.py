"""The loader: which windows an epoch has, in which order, for which process, and after a resume."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from shakespeare_lm.data.loader import WindowLoader, WindowOrder
from shakespeare_lm.data.windows import Documents, grid_windows
from shakespeare_lm.errors import UserError


def numbered(*lengths: int) -> Documents:
    """Return documents whose ids are their positions: every id tells where it comes from."""
    return Documents(torch.arange(sum(lengths)), torch.tensor(lengths))


def loader(
    documents: Documents, order: WindowOrder = "sequential", **options: object
) -> WindowLoader:
    sizes = {"context_length": 4, "batch_size": 3, **options}
    return WindowLoader(documents, padding_id=10_000, window_order=order, **sizes)


def real_targets(batches: WindowLoader) -> list[int]:
    return [i for batch in batches for i in batch.targets[batch.target_mask].tolist()]


def values(batches: list[Tensor]) -> list[list[list[int]]]:
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(2,), (5,), (41,), (9, 1, 2, 30), (4, 4, 4)])
@pytest.mark.parametrize("fill_rows", [False, True])
def test_each_character_but_a_documents_first_is_a_target_exactly_once_per_epoch(
    order: WindowOrder, world_size: int, lengths: tuple[int, ...], fill_rows: bool
) -> None:
    documents = numbered(*lengths)
    firsts = {sum(lengths[:i]) for i in range(len(lengths))}
    loaders = [
        loader(documents, order, seed=7, fill_rows=fill_rows, rank=rank, world_size=world_size)
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


def test_the_windows_of_an_epoch_are_spread_evenly_over_its_batches() -> None:
    # 10 windows in 4 batches of up to 3.
    batches = loader(numbered(41), batch_size=3)
    assert [int(batch.target_mask.any(dim=1).sum()) for batch in batches] == [2, 3, 2, 3]


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted", "random"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("length", [21, 25, 30, 41, 60, 77])
def test_no_row_of_a_filled_epoch_is_empty(
    order: WindowOrder, world_size: int, length: int
) -> None:
    for rank in range(world_size):
        batches = loader(
            numbered(length), order, batch_size=2, fill_rows=True, rank=rank, world_size=world_size
        )
        for _epoch in range(3):
            assert all(bool(batch.target_mask.any(dim=1).all()) for batch in batches)


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted"])
@pytest.mark.parametrize("lengths", [(2,), (3,), (5,), (11,), (2, 2, 2), (3, 2, 9), (6, 5)])
def test_rows_of_a_short_text_stay_empty_only_if_every_window_is_halved(
    order: WindowOrder, lengths: tuple[int, ...]
) -> None:
    options = {"batch_size": 8, "seed": 2}
    for epoch in range(4):
        whole = loader(numbered(*lengths), order, **options).windows(epoch)
        filled = loader(numbered(*lengths), order, fill_rows=True, **options).windows(epoch)
        divisible = int((whole.sizes > 2).sum())
        assert len(filled.starts) == min(8, len(whole.starts) + divisible)


def test_a_loader_that_does_not_fill_its_rows_has_the_windows_of_the_grid() -> None:
    documents = numbered(60, 7)
    for batch_size in (1, 3, 8):
        windows = loader(documents, batch_size=batch_size).windows(0)
        assert torch.equal(windows.starts, grid_windows(documents.lengths, 4).starts)
        assert torch.equal(windows.sizes, grid_windows(documents.lengths, 4).sizes)


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted", "random"])
@pytest.mark.parametrize("length", [2, 25, 60])
def test_filling_rows_leaves_the_number_of_batches_and_the_data_position_as_they_are(
    order: WindowOrder, length: int
) -> None:
    states = []
    for fill_rows in (False, True):
        batches = loader(numbered(length), order, fill_rows=fill_rows)
        _ = list(batches)
        states.append(batches.state_dict())
    assert states[0] == states[1]


@pytest.mark.parametrize("order", ["sequential", "grid", "shifted", "random"])
def test_inputs_precede_their_targets_in_every_order(order: WindowOrder) -> None:
    for batch in loader(numbered(60, 7), order):
        step = (batch.targets - batch.inputs)[batch.target_mask]
        assert torch.equal(step, torch.ones_like(step))


@pytest.mark.parametrize("fill_rows", [False, True])
def test_sequential_windows_keep_the_order_of_the_text(fill_rows: bool) -> None:
    assert real_targets(loader(numbered(30), fill_rows=fill_rows)) == list(range(1, 30))


@pytest.mark.parametrize("fill_rows", [False, True])
def test_the_order_depends_on_seed_and_epoch_alone(fill_rows: bool) -> None:
    first, same, other = (
        loader(numbered(200), "shifted", seed=seed, fill_rows=fill_rows) for seed in (1, 1, 2)
    )
    epochs = [real_targets(first), real_targets(first)]
    assert epochs[0] != epochs[1]
    torch.manual_seed(4)
    assert epochs == [real_targets(same), real_targets(same)]
    assert epochs[0] != real_targets(other)


def test_a_shifted_grid_moves_between_epochs_and_a_grid_does_not() -> None:
    def starts(order: WindowOrder) -> list[set[int]]:
        batches = loader(numbered(101), order)
        return [set(batches.windows(epoch).starts.tolist()) for epoch in range(6)]

    assert all(epoch == set(range(0, 100, 4)) for epoch in starts("grid"))
    assert len({frozenset(epoch) for epoch in starts("shifted")}) > 1


def test_a_grid_is_shuffled_anew_in_each_epoch() -> None:
    orders = [loader(numbered(101), "grid").windows(epoch).starts.tolist() for epoch in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])
    assert orders[0] != orders[1] != orders[2]


def test_random_order_draws_as_many_windows_as_the_grid_has() -> None:
    random = loader(numbered(101), "random")
    windows = [random.windows(epoch).starts for epoch in range(2)]
    assert [len(starts) for starts in windows] == [25, 25]
    assert len(random) == len(loader(numbered(101), "grid"))
    assert any(start % 4 for start in windows[0].tolist())
    assert not torch.equal(*windows)


def test_random_order_draws_as_many_windows_as_there_are_rows_to_fill() -> None:
    filled = loader(numbered(101), "random", world_size=2, fill_rows=True)
    assert len(filled) == 5
    assert len(filled.windows(0).starts) == 30


def test_gathering_in_several_goes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = real_targets(loader(numbered(100), "grid"))
    monkeypatch.setattr("shakespeare_lm.data.loader._CHARACTERS_PER_GATHER", 24)
    assert real_targets(loader(numbered(100), "grid")) == at_once


# --- resuming ---


@pytest.mark.parametrize("fill_rows", [False, True])
def test_a_loader_resumed_anywhere_continues_with_the_very_next_batch(fill_rows: bool) -> None:
    def loader_of_run() -> WindowLoader:
        return loader(numbered(60), "shifted", seed=3, fill_rows=fill_rows)

    uninterrupted = loader_of_run()
    epochs = [[batch.targets for batch in uninterrupted] for _ in range(3)]
    for stopped_after in range(1, len(uninterrupted) + 1):
        first = loader_of_run()
        _ = list(first)
        iterator = iter(first)
        for _ in range(stopped_after):
            next(iterator)
        resumed = loader_of_run()
        resumed.load_state_dict(first.state_dict())
        expected = epochs[1][stopped_after:] or epochs[2]
        assert values([batch.targets for batch in resumed]) == values(expected)


def test_the_epoch_after_a_resumed_one_is_complete() -> None:
    uninterrupted = loader(numbered(60), "shifted", seed=3)
    epochs = [[batch.targets for batch in uninterrupted] for _ in range(2)]
    resumed = loader(numbered(60), "shifted", seed=3)
    resumed.load_state_dict({"epoch": 0, "next_batch": 2, "batches": len(resumed)})
    _ = list(resumed)
    assert values([batch.targets for batch in resumed]) == values(epochs[1])


def test_the_state_of_a_loader_that_has_not_begun_continues_at_its_beginning() -> None:
    fresh, resumed = (loader(numbered(60), "shifted", seed=3) for _ in range(2))
    resumed.load_state_dict(fresh.state_dict())
    assert real_targets(resumed) == real_targets(fresh)


def test_a_data_position_of_other_values_than_integers_is_refused_without_printing_it() -> None:
    endless: list = ["x"] * 10
    for _ in range(20):
        endless = [endless] * 10
    state = {**loader(numbered(60)).state_dict(), "epoch": endless}
    with pytest.raises(UserError, match="expected three integers"):
        loader(numbered(60)).load_state_dict(state)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(UserError, match="window_order is 'backwards': choose from: sequential"):
        loader(numbered(60), "backwards")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.5}, "batch_size is 2.5: expected int"),
        ({"context_length": "8"}, "context_length is '8': expected int"),
        ({"seed": "x"}, "seed is 'x': expected int"),
        ({"batch_size": 0}, "batch_size is 0: expected a value >= 1"),
    ],
)
def test_sizes_that_are_not_positive_integers_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        loader(numbered(60), **options)


def test_the_state_is_the_position_of_the_next_batch() -> None:
    batches = loader(numbered(60))
    assert batches.state_dict() == {"epoch": -1, "next_batch": 0, "batches": 5}
    for epoch in range(2):
        for number, _ in enumerate(batches, start=1):
            state = {"epoch": epoch, "next_batch": number, "batches": 5}
            assert batches.state_dict() == state


def test_an_epoch_can_be_chosen() -> None:
    batches = loader(numbered(60), "shifted")
    epochs = [real_targets(batches) for _ in range(3)]
    for epoch in (2, 0, 1):
        batches.set_epoch(epoch)
        assert real_targets(batches) == epochs[epoch]
    assert real_targets(batches) == epochs[2]


def test_a_data_position_of_another_number_of_batches_is_refused() -> None:
    state = loader(numbered(60), batch_size=3).state_dict()
    message = "run has 5 batches, but one of this run has 3: resume with the text, batch size"
    with pytest.raises(UserError, match=message):
        loader(numbered(60), batch_size=5).load_state_dict(state)


@pytest.mark.parametrize("position", [{"epoch": -2}, {"next_batch": -1}, {"next_batch": 6}])
def test_an_invalid_data_position_is_refused(position: dict[str, int]) -> None:
    batches = loader(numbered(60))
    with pytest.raises(UserError, match="invalid data position in the checkpoint"):
        batches.load_state_dict({**batches.state_dict(), **position})
