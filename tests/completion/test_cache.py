"""The key-value cache: which columns hold what, and which of them a step may attend to."""

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion.cache import KeyValueCache
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.config import NetworkConfig

PADDING = 10
CONFIG = NetworkConfig(
    context_length=4, num_layers=2, num_heads=1, d_model=2, previous_characters=2
)


def empty(batch: int, fixed_shape: bool = False) -> KeyValueCache:
    return KeyValueCache(batch, CONFIG, PADDING, torch.zeros(()), fixed_shape)


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
    cache.store(0, rows, torch.tensor([0, 1]))(keys_and_values([1.0, 2.0], [3.0, 9.0]))
    return cache


def test_a_cache_has_room_for_every_layer_head_and_position_of_the_network() -> None:
    config = NetworkConfig(context_length=7, num_layers=3, num_heads=2, d_model=8)
    cache = KeyValueCache(5, config, PADDING, torch.zeros((), dtype=torch.float64))
    assert [tuple(layer.shape) for layer in cache.layers] == [(2, 5, 2, 7, 4)] * 3
    assert {layer.dtype for layer in cache.layers} == {torch.float64}
    assert not any(layer.any() for layer in cache.layers)


def test_keys_and_values_are_stored_in_the_chosen_rows() -> None:
    cache, rows = empty(4), torch.tensor([3, 0, 1])
    cache.begin(rows, [[5, 6], [7, 8], [5, 6]])
    # Two of the windows are equal, and were computed once.
    new = keys_and_values([3.0, 4.0], [1.0, 2.0])
    assert cache.store(0, rows, torch.tensor([1, 0, 1]))(new) is new
    assert filled(cache) == [[3, 4, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [1, 2, 0, 0]]
    assert not cache.layers[1].any()
    assert cache.lengths == [2, 2, 0, 2]
    assert cache.positions.tolist() == [1, 1, -1, 1]


def test_windows_of_one_length_grow_without_a_mask() -> None:
    cache = empty(2)
    for number in (1.0, 2.0):
        cache.append(torch.tensor([5, 6]))
        known = cache.extend(0)(keys_and_values([number], [10 * number]))
        assert cache.mask is None
    assert cache.at == slice(1, 2)
    assert known.shape == (2, 2, 1, 2, 2)
    assert filled(cache) == [[1, 2, 0, 0], [10, 20, 0, 0]]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_windows_of_different_lengths_attend_only_to_what_they_hold(fixed_shape: bool) -> None:
    cache = two_windows(fixed_shape)
    cache.append(torch.tensor([8, 9]))
    known = cache.extend(0)(keys_and_values([4.0], [5.0]))
    columns = 4 if fixed_shape else 3
    assert known.shape == (2, 2, 1, columns, 2)
    assert cache.mask is not None
    seen = cache.mask[:, 0, 0].int().tolist()
    assert seen == [[1, 1, 1, 0][:columns], [1, 1, 0, 0][:columns]]
    # The new numbers take the column after the last character of each window.
    assert filled(cache) == [[1, 2, 4, 0], [3, 5, 0, 0]]
    assert isinstance(cache.at, Tensor)
    assert cache.at.tolist() == [[2], [1]]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_step_gets_the_newest_id_and_the_ones_before_it(fixed_shape: bool) -> None:
    uneven = two_windows(fixed_shape)
    assert uneven.append(torch.tensor([8, 9])).tolist() == [[5, 6, 8], [PADDING, 7, 9]]
    assert uneven.append(torch.tensor([1, 2])).tolist() == [[6, 8, 1], [7, 9, 2]]
    even = empty(1, fixed_shape)
    steps = [even.append(torch.tensor([number])).tolist() for number in (1, 2, 3)]
    assert steps == [[[PADDING, PADDING, 1]], [[PADDING, 1, 2]], [[1, 2, 3]]]


def test_a_row_can_start_again_while_the_others_go_on() -> None:
    cache = two_windows()
    rows = torch.tensor([0])
    cache.begin(rows, [[4]])
    cache.store(0, rows, torch.tensor([0]))(keys_and_values([8.0]))
    assert cache.lengths == [1, 1]
    assert cache.append(torch.tensor([3, 3])).tolist() == [[PADDING, 4, 3], [PADDING, 7, 3]]
    assert cache.mask is None
    cache.extend(0)(keys_and_values([6.0], [7.0]))
    assert [row[:2] for row in filled(cache)] == [[8, 6], [3, 7]]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_full_window_cannot_grow(fixed_shape: bool) -> None:
    cache = two_windows(fixed_shape)
    for _ in range(2):
        cache.append(torch.tensor([1, 1]))
    positions = cache.positions.tolist()
    with pytest.raises(UserError, match="a window holds at most 4 characters"):
        cache.append(torch.tensor([1, 1]))
    assert cache.lengths == [4, 3]
    assert cache.positions.tolist() == positions == [3, 2]
