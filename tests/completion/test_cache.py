"""The key-value cache: which columns hold what, and which of them a step may attend to."""

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.cache import KeyValueCache, Prefill
from shakespeare_lm.errors import UserError

PADDING = 10
CPU = torch.device("cpu")


def empty(batch: int, fixed_shape: bool = False) -> KeyValueCache:
    like = [torch.ones(2, 1, 1, 1, 2)] * 2  # two layers with one head of width 2
    return KeyValueCache(batch, 4, 2, PADDING, like, CPU, fixed_shape)


def fill(cache: KeyValueCache, rows: Tensor, source: list[int], new: Tensor) -> Tensor:
    """Store keys and values of whole windows in the first layer."""
    recent, positions = torch.empty(0), slice(new.shape[3])
    return Prefill(cache, rows, torch.tensor(source), recent, positions).extend(0, new)


def read(cache: KeyValueCache, ids: list[int]) -> list[list[int]]:
    """Append ids; return them with those before them."""
    cache.append(torch.tensor(ids))
    return cache.recent.tolist()


def keys_and_values(*values: list[float]) -> Tensor:
    """Return `[2, batch, 1, time, 2]`: one number per window and position, the values negative."""
    numbers = torch.tensor(values)[None, :, None, :, None].expand(-1, -1, -1, -1, 2)
    return torch.cat((numbers, -numbers))


def filled(cache: KeyValueCache, layer: int = 0) -> list[list[float]]:
    """Return the numbers that the keys hold, after checking that the values match."""
    keys, values = cache.layers[layer]
    assert torch.equal(keys, -values)
    return keys[:, 0, :, 0].tolist()


def two_windows(fixed_shape: bool = False) -> KeyValueCache:
    """Return a cache of windows of 2 and 1 characters."""
    cache, rows = empty(2, fixed_shape), torch.tensor([0, 1])
    ids = cache.begin(rows, [[5, 6], [7]])
    assert ids.tolist() == [[5, 6], [7, PADDING]]
    fill(cache, rows, [0, 1], keys_and_values([1.0, 2.0], [3.0, 9.0]))
    return cache


def test_a_cache_has_room_for_every_layer_head_and_position_of_the_network() -> None:
    like = [torch.ones(2, 1, 2, 1, 4, dtype=torch.float64)] * 3
    cache = KeyValueCache(5, 7, 0, PADDING, like, CPU)
    assert [tuple(layer.shape) for layer in cache.layers] == [(2, 5, 2, 7, 4)] * 3
    assert {layer.dtype for layer in cache.layers} == {torch.float64}
    assert not any(layer.any() for layer in cache.layers)


def test_keys_and_values_are_stored_in_the_chosen_rows() -> None:
    cache, rows = empty(4), torch.tensor([3, 0, 1])
    cache.begin(rows, [[5, 6], [7, 8], [5, 6]])
    # Two of the windows are equal, and were computed once.
    new = keys_and_values([3.0, 4.0], [1.0, 2.0])
    assert fill(cache, rows, [1, 0, 1], new) is new
    assert filled(cache) == [[3, 4, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [1, 2, 0, 0]]
    assert not cache.layers[1].any()
    assert cache.lengths == [2, 2, 0, 2]
    assert cache.newest.tolist() == [1, 1, -1, 1]


def test_windows_of_one_length_grow_without_a_mask() -> None:
    cache = empty(2)
    for number in (1.0, 2.0):
        cache.append(torch.tensor([5, 6]))
        known = cache.extend(0, keys_and_values([number], [10 * number]))
        assert cache.mask is None
    assert cache.positions == slice(1, 2)
    assert known.shape == (2, 2, 1, 2, 2)
    assert filled(cache) == [[1, 2, 0, 0], [10, 20, 0, 0]]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_windows_of_different_lengths_attend_only_to_what_they_hold(fixed_shape: bool) -> None:
    cache = two_windows(fixed_shape)
    cache.append(torch.tensor([8, 9]))
    known = cache.extend(0, keys_and_values([4.0], [5.0]))
    columns = 4 if fixed_shape else 3
    assert known.shape == (2, 2, 1, columns, 2)
    assert cache.mask is not None
    seen = cache.mask[:, 0, 0].int().tolist()
    assert seen == [[1, 1, 1, 0][:columns], [1, 1, 0, 0][:columns]]
    # The new numbers take the column after the last character of each window.
    assert filled(cache) == [[1, 2, 4, 0], [3, 5, 0, 0]]
    assert isinstance(cache.positions, Tensor)
    assert cache.positions.tolist() == [[2], [1]]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_step_gets_the_newest_id_and_the_ones_before_it(fixed_shape: bool) -> None:
    uneven = two_windows(fixed_shape)
    assert read(uneven, [8, 9]) == [[5, 6, 8], [PADDING, 7, 9]]
    assert read(uneven, [1, 2]) == [[6, 8, 1], [7, 9, 2]]
    even = empty(1, fixed_shape)
    steps = [read(even, [number]) for number in (1, 2, 3)]
    assert steps == [[[PADDING, PADDING, 1]], [[PADDING, 1, 2]], [[1, 2, 3]]]


def test_a_row_can_start_again_while_the_others_go_on() -> None:
    cache = two_windows()
    rows = torch.tensor([0])
    cache.begin(rows, [[4]])
    fill(cache, rows, [0], keys_and_values([8.0]))
    assert cache.lengths == [1, 1]
    assert read(cache, [3, 3]) == [[PADDING, 4, 3], [PADDING, 7, 3]]
    assert cache.mask is None
    cache.extend(0, keys_and_values([6.0], [7.0]))
    assert [row[:2] for row in filled(cache)] == [[8, 6], [3, 7]]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_full_window_cannot_grow(fixed_shape: bool) -> None:
    cache = two_windows(fixed_shape)
    for _ in range(2):
        cache.append(torch.tensor([1, 1]))
    newest = cache.newest.tolist()
    with pytest.raises(UserError, match="a window holds at most 4 characters"):
        cache.append(torch.tensor([1, 1]))
    assert cache.lengths == [4, 3]
    assert cache.newest.tolist() == newest == [3, 2]


def test_rows_that_are_kept_come_first_and_new_ones_are_empty() -> None:
    cache = two_windows()
    other = cache.with_rows([1], 2)
    assert filled(other) == [[3, 9, 0, 0], [0] * 4, [0] * 4]
    assert other.lengths == [1, 0, 0]
    assert other.newest.tolist() == [0, -1, -1]
    assert read(other, [8, 9, 6]) == [[PADDING, 7, 8], [PADDING] * 2 + [9], [PADDING] * 2 + [6]]
    assert filled(cache) == [[1, 2, 0, 0], [3, 9, 0, 0]]


def test_an_emptied_cache_begins_anew_without_new_memory() -> None:
    cache = two_windows(fixed_shape=True)
    memory = [layer.data_ptr() for layer in cache.layers]
    cache.append(torch.tensor([8, 9]))
    cache.empty()
    assert cache.lengths == [0, 0]
    assert read(cache, [3, 4]) == [[PADDING, PADDING, 3], [PADDING, PADDING, 4]]
    assert cache.mask is not None
    assert cache.mask[:, 0, 0].int().tolist() == [[1, 0, 0, 0]] * 2
    assert [layer.data_ptr() for layer in cache.layers] == memory
