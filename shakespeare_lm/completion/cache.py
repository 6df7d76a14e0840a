"""The key-value cache: keys and values of the characters read so far, so that generating the next
character does not read them again.

Enters: ids, and the keys and values that each layer computes for them. Leaves: the keys and values
of all characters in each window. Only completion needs it: training sees whole windows at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.attention import CacheUpdate
from shakespeare_lm.model.config import NetworkConfig


class KeyValueCache:
    """The keys and values of every layer for `batch` windows, allocated once.

    Windows may have different lengths: position p of a window is column p of its row.

    Args:
        batch: number of windows.
        config: of the network.
        padding_id: stands before the first character of each window.
        like: a weight of the network, for dtype and device.
        fixed_shape: make every step attend to all columns under a mask, so that all steps have the
            same shapes and can be compiled, or recorded as a CUDA graph.
    """

    def __init__(
        self,
        batch: int,
        config: NetworkConfig,
        padding_id: int,
        like: Tensor,
        fixed_shape: bool = False,
    ) -> None:
        self.config = config
        self.padding_id = padding_id
        self.fixed_shape = fixed_shape
        size = (2, batch, config.num_heads, config.context_length, config.head_dim)
        # Keys and values of each layer. Zeros, because masked values are still multiplied (by zero)
        # and must not be NaN.
        self.layers = [like.new_zeros(size) for _ in range(config.num_layers)]
        self.lengths = [0] * batch
        # The position of the newest character of each window; on the device.
        self.positions = torch.full((batch,), -1, device=like.device)
        # Of the step in progress: the rows of the position table that it needs, and its mask, which
        # is None if each window attends to all columns in reach.
        self.at: slice | Tensor = slice(0)
        self.mask: Tensor | None = None
        self._reach = 0  # number of columns that the longest window fills
        self._rows = torch.arange(batch, device=like.device)
        self._columns = torch.arange(config.context_length, device=like.device)
        # How many characters before the newest one the network looks up by themselves.
        self._before = max(config.previous_characters, config.memory_order - 1)
        width = self._before + config.context_length
        self._ids = torch.full((batch, width), padding_id, device=like.device)
        self._nearest = torch.arange(self._before + 1, device=like.device)

    def empty(self) -> None:
        """Forget all windows; nothing is allocated anew."""
        self.lengths = [0] * len(self.lengths)
        self.positions.fill_(-1)
        self._ids.fill_(self.padding_id)

    def with_rows(self, kept: Sequence[int], added: int) -> "KeyValueCache":
        """Return a cache of some of these windows, in this order, and then as many empty ones."""
        one = self.layers[0]
        cache = KeyValueCache(len(kept) + added, self.config, self.padding_id, one)
        rows = torch.tensor(kept, dtype=torch.long, device=self.positions.device)
        for theirs, ours in zip(cache.layers, self.layers, strict=True):
            theirs[:, : len(kept)] = ours[:, rows]
        cache.lengths[: len(kept)] = [self.lengths[row] for row in kept]
        cache.positions[: len(kept)] = self.positions[rows]
        cache._ids[: len(kept)] = self._ids[rows]
        return cache

    def begin(self, rows: Tensor, windows: Sequence[Sequence[int]]) -> Tensor:
        """Restart these rows with these windows, whose keys and values follow through `store`.

        Returns:
            Their ids `[windows, time]`, padded on the right.
        """
        time = max(map(len, windows))
        padded = [[*window] + [self.padding_id] * (time - len(window)) for window in windows]
        ids = torch.tensor(padded, dtype=torch.long, device=rows.device)
        first = self._before
        self._ids[rows, first : first + time] = ids
        lengths = list(map(len, windows))
        self.positions[rows] = torch.tensor(lengths, device=rows.device) - 1
        for row, length in zip(rows.tolist(), lengths, strict=True):
            self.lengths[row] = length
        return ids

    def store(self, layer: int, rows: Tensor, source: Tensor) -> CacheUpdate:
        """Return the update that stores a layer's keys and values of whole windows: those of window
        `source[i]` in row `rows[i]`.
        """

        def update(new: Tensor) -> Tensor:
            self.layers[layer][:, rows, :, : new.shape[3]] = new[:, source]
            return new

        return update

    def append(self, ids: Tensor) -> Tensor:
        """Add one id to each window; its keys and values follow through `extend`.

        Args:
            ids: `[batch]`.

        Returns:
            The newest ids of each window, `[batch, before + 1]`: as many as embeddings and n-grams
            look up.

        Raises:
            UserError: if a window is full.
        """
        if max(self.lengths) >= self.config.context_length:
            raise UserError(f"a window holds at most {self.config.context_length} characters")
        self.lengths = [length + 1 for length in self.lengths]
        self.positions += 1
        self._reach = self.config.context_length if self.fixed_shape else max(self.lengths)
        self.at, self.mask = slice(self._reach - 1, self._reach), None
        if self.fixed_shape or min(self.lengths) < self._reach:
            self.at, self.mask = self.positions[:, None], self._filled()
        return self._append_ids(ids)

    def _append_ids(self, ids: Tensor) -> Tensor:
        before = self._before
        if self.mask is None:
            self._ids[:, self._reach - 1 + before] = ids
            return self._ids[:, self._reach - 1 : self._reach + before]
        self._ids[self._rows, self.positions + before] = ids
        return self._ids.gather(1, self.positions[:, None] + self._nearest)

    def _filled(self) -> Tensor:
        """Return `[batch, 1, 1, columns]`: True in the columns that a window has filled."""
        return (self._columns[: self._reach] <= self.positions[:, None])[:, None, None]

    def extend(self, layer: int) -> CacheUpdate:
        """Return the update that stores a layer's keys and values of one new character per window,
        and returns those of all characters so far.
        """

        def update(new: Tensor) -> Tensor:
            known = self.layers[layer]
            if self.mask is None:  # writing a slice is faster than writing at indices
                known[:, :, :, self.at] = new
            else:
                known[:, self._rows, :, self.positions] = new[:, :, :, 0].transpose(0, 1)
            return known[:, :, :, : self._reach]

        return update
