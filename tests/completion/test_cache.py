"""The KV cache: which columns hold what, and which of them a step may attend to."""

import pytest
import torch
from torch import Tensor

from shakespeare_lm.completion import cache as cache_module
from shakespeare_lm.completion.cache import KeyValueCache, Prefill
from shakespeare_lm.errors import UserError

PADDING = 10


def empty(batch: int, fixed_shape: bool = False) -> KeyValueCache:
    return KeyValueCache(batch, 4, 2, PADDING, torch.device("cpu"), fixed_shape)


def read(cache: KeyValueCache, ids: list[int]) -> list[list[int]]:
    """Append ids; return them with those before them."""
    cache.append(torch.tensor(ids))
    return cache.recent.tolist()


def keys_and_values(*values: list[float]) -> Tensor:
    """Return `[2, batch, 1, time, 2]`: one number per window and position, the values negative."""
    numbers = torch.tensor(values)[None, :, None, :, None].expand(-1, -1, -1, -1, 2)
    return torch.cat((numbers, -numbers))


def filled(cache: KeyValueCache) -> list[list[float]]:
    """Return the numbers that the first layer's keys hold, and check that the values match."""
    keys, values = cache.layers[0]
    assert torch.equal(keys, -values)
    return keys[:, 0, :, 0].tolist()


def two_windows(fixed_shape: bool = False) -> KeyValueCache:
    """Return a cache of windows of 2 and 1 characters."""
    cache, rows = empty(2, fixed_shape), torch.tensor([1, 0])
    ids = cache.begin(rows, [[7], [5, 6]])
    assert ids.tolist() == [[7, PADDING], [5, 6]]
    past = Prefill(cache, rows, torch.tensor([0, 1]), ids, slice(2))
    past.extend(0, keys_and_values([3.0, 9.0], [1.0, 2.0]))
    return cache


def test_the_memory_of_a_layer_fits_what_is_stored_first_and_is_zero_elsewhere():
    cache = empty(5)
    cache.append(torch.full((5,), 3))
    for layer in range(2):
        cache.extend(layer, torch.ones(2, 5, 3, 1, 7, dtype=torch.float64))
    assert cache.mask is None  # as all windows have one length
    assert [tuple(layer.shape) for layer in cache.layers] == [(2, 5, 3, 4, 7)] * 2
    assert {layer.dtype for layer in cache.layers} == {torch.float64}
    assert not any(layer[:, :, :, 1:].any() for layer in cache.layers)


def test_memory_grows_with_the_text_and_keeps_what_is_stored(monkeypatch):
    monkeypatch.setattr(cache_module, "_FIRST_COLUMNS", 2)
    cache, taken = KeyValueCache(1, 7, 0, PADDING, torch.device("cpu")), []
    for number in range(1, 8):
        cache.append(torch.tensor([3]))
        cache.extend(0, keys_and_values([number]))
        taken.append(len(filled(cache)[0]))
        assert filled(cache)[0][:number] == [*range(1, number + 1)]
    assert taken == [2, 2, 4, 4, 7, 7, 7]
    cache.change_rows([0, None])
    assert cache.layers[0][0, :, 0, :, 0].tolist() == [[*range(1, 8)], [0] * 7]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_windows_of_different_lengths_attend_only_to_what_they_hold(fixed_shape):
    cache = two_windows(fixed_shape)
    cache.append(torch.tensor([8, 9]))
    known = cache.extend(0, keys_and_values([4.0], [5.0]))
    columns = 4 if fixed_shape else 3
    assert known.shape == (2, 2, 1, columns, 2)
    seen = cache.mask[:, 0, 0].int().tolist()
    assert seen == [[1, 1, 1, 0][:columns], [1, 1, 0, 0][:columns]]
    # The new numbers take the column after the last character of each window.
    assert filled(cache) == [[1, 2, 4, 0], [3, 5, 0, 0]]
    assert cache.positions.tolist() == [[2], [1]]
    cache.append(torch.tensor([1, 1]))
    with pytest.raises(UserError, match="a window holds at most 4 characters"):  # it is full
        cache.append(torch.tensor([1, 1]))
    assert cache.lengths == [4, 3]
    assert cache.newest.tolist() == [3, 2]


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_a_step_gets_the_newest_id_and_the_ones_before_it(fixed_shape):
    uneven = two_windows(fixed_shape)
    assert read(uneven, [8, 9]) == [[5, 6, 8], [PADDING, 7, 9]]
    assert read(uneven, [1, 2]) == [[6, 8, 1], [7, 9, 2]]
    even = empty(1, fixed_shape)
    steps = [read(even, [number]) for number in (1, 2, 3)]
    assert steps == [[[PADDING, PADDING, 1]], [[PADDING, 1, 2]], [[1, 2, 3]]]


def test_an_emptied_cache_begins_anew_without_new_memory():
    cache = two_windows(fixed_shape=True)
    memory = [layer.data_ptr() for layer in cache.layers]
    cache.append(torch.tensor([8, 9]))
    cache.empty()
    assert cache.lengths == [0, 0]
    assert read(cache, [3, 4]) == [[PADDING, PADDING, 3], [PADDING, PADDING, 4]]
    assert cache.mask[:, 0, 0].int().tolist() == [[1, 0, 0, 0]] * 2
    assert [layer.data_ptr() for layer in cache.layers] == memory
