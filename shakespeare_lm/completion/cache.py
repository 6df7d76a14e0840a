"""The KV cache: the next character is generated without reading those before it again."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from shakespeare_lm.errors import UserError

# A cache has room for this many characters at first: a stranger's file can ask for a context that
# is longer than any memory.
_FIRST_COLUMNS = 512


class KeyValueCache:
    """The keys and values of every layer for `batch` windows: a `Past` that grows.

    Windows may have different lengths: position p of a window is column p of its row.

    Args:
        batch: number of windows.
        context_length: the longest window.
        lookback: how many preceding characters the network embeds at each position.
        padding_id: stands before the first character of each window.
        device: of all tensors.
        fixed_shape: make every step attend to all columns under a mask, so that it can be compiled.
    """

    def __init__(
        self,
        batch: int,
        context_length: int,
        lookback: int,
        padding_id: int,
        device: torch.device,
        fixed_shape: bool = False,
    ) -> None:
        self.context_length, self.lookback = context_length, lookback
        self.padding_id, self.fixed_shape = padding_id, fixed_shape
        self.layers: list[Tensor] = []  # each `[2, rows, heads, columns, head_dim]`
        self.lengths = [0] * batch
        # The position of the newest character of each window; on the device.
        self.newest = torch.full((batch,), -1, device=device)
        # Of the step in progress, as `Past` has them.
        self.positions: slice | Tensor = slice(0)
        self.mask: Tensor | None = None
        self._reach = 0  # number of columns that the longest window fills
        self._rows_taken = batch  # of each layer
        self._columns_taken = context_length if fixed_shape else 0
        self._rows = torch.arange(batch, device=device)
        self._columns = torch.arange(context_length, device=device)
        self._ids = torch.full((batch, lookback + context_length), padding_id, device=device)
        self._lookback = torch.arange(lookback + 1, device=device)
        self.recent = self._ids[:, :lookback]

    def empty(self) -> None:
        """Forget all windows, and keep the memory."""
        self.lengths = [0] * len(self.lengths)
        self.newest.fill_(-1)
        self._ids.fill_(self.padding_id)

    def change_rows(self, rows: Sequence[int | None]) -> None:
        """Let each row hold the window of the row that is named, or None for an empty one. Rows
        that keep their windows cost nothing, so most should.
        """
        moved = [(row, old) for row, old in enumerate(rows) if old not in (row, None)]
        device = self.newest.device
        to, source = torch.tensor(moved, dtype=torch.long, device=device).reshape(-1, 2).T
        self.lengths = [0 if old is None else self.lengths[old] for old in rows]
        self._reserve(self._columns_taken)
        for memory in self.layers if moved else ():
            memory[:, to] = memory[:, source]
        self.newest = torch.tensor(self.lengths, device=device) - 1
        self._rows = torch.arange(len(rows), device=device)
        blank = F.pad(self._ids, (0, 0, 0, 1), value=self.padding_id)
        self._ids = blank[[-1 if old is None else old for old in rows]]

    def begin(self, rows: Tensor, windows: Sequence[Sequence[int]]) -> Tensor:
        """Restart these rows with these windows, whose keys and values follow through `Prefill`;
        return their ids `[windows, time]`, padded on the right.
        """
        unpadded = [torch.tensor(window, dtype=torch.long) for window in windows]
        ids = pad_sequence(unpadded, True, self.padding_id).to(rows.device)
        self._reserve(ids.shape[1])
        self._ids[rows, self.lookback : self.lookback + ids.shape[1]] = ids
        self.newest[rows] = torch.tensor(list(map(len, windows)), device=rows.device) - 1
        for row, window in zip(rows.tolist(), windows, strict=True):
            self.lengths[row] = len(window)
        return ids

    def append(self, ids: Tensor) -> None:
        """Add one id to each window, `[batch]`; its keys and values follow through `extend`."""
        if max(self.lengths) >= self.context_length:
            raise UserError(f"a window holds at most {self.context_length} characters")
        self.lengths = [length + 1 for length in self.lengths]
        self.newest += 1
        self._reach = self.context_length if self.fixed_shape else max(self.lengths)
        self._reserve(self._reach)
        if self.fixed_shape or min(self.lengths) < self._reach:
            self.positions = self.newest[:, None]
            # `[batch, 1, 1, columns]`: True in the columns that a window has filled.
            self.mask = (self._columns[: self._reach] <= self.newest[:, None])[:, None, None]
            self._ids[self._rows, self.newest + self.lookback] = ids
            self.recent = self._ids.gather(1, self.newest[:, None] + self._lookback)
        else:
            self.positions, self.mask = slice(self._reach - 1, self._reach), None
            self._ids[:, self._reach - 1 + self.lookback] = ids
            self.recent = self._ids[:, self._reach - 1 : self._reach + self.lookback]

    def _reserve(self, columns: int) -> None:
        """Make room in each layer for all windows and this many columns; where there is too little,
        for at least twice as many as there were.
        """
        if columns > self._columns_taken:
            columns = max(columns, 2 * self._columns_taken, _FIRST_COLUMNS)
            self._columns_taken = min(columns, self.context_length)
        if len(self.lengths) > self._rows_taken:
            self._rows_taken = max(len(self.lengths), 2 * self._rows_taken)
        for number, memory in enumerate(self.layers):
            rows, columns = memory.shape[1], memory.shape[3]
            more = (0, 0, 0, self._columns_taken - columns, 0, 0, 0, self._rows_taken - rows)
            self.layers[number] = F.pad(memory, more) if any(more) else memory

    def layer(self, number: int, like: Tensor) -> Tensor:
        """Return a layer's memory of all windows, allocated with the heads and format of the first
        keys and values that it is asked for with.
        """
        if number == len(self.layers):
            shape = (2, self._rows_taken, like.shape[2], self._columns_taken, like.shape[4])
            # Zeros, because masked values are still multiplied (by zero) and must not be NaN.
            self.layers.append(like.new_zeros(shape))
        return self.layers[number][:, : len(self.lengths)]

    def extend(self, layer: int, keys_values: Tensor) -> Tensor:
        """Store a layer's keys and values of one new character per window; return all so far."""
        known = self.layer(layer, keys_values)
        if self.mask is None:  # writing a slice is faster than writing at indices
            known[:, :, :, self.positions] = keys_values
        else:
            known[:, self._rows, :, self.newest] = keys_values[:, :, :, 0].transpose(0, 1)
        return known[:, :, :, : self._reach]


class Prefill(NamedTuple):
    """The empty `Past` of whole windows: it stores the keys and values of window `source[i]` in row
    `rows[i]` of the cache.
    """

    cache: KeyValueCache
    rows: Tensor
    source: Tensor
    recent: Tensor  # the windows, after padding
    positions: slice | Tensor
    mask: Tensor | None = None

    def extend(self, layer: int, keys_values: Tensor) -> Tensor:
        time = keys_values.shape[3]
        known = self.cache.layer(layer, keys_values)
        known[:, self.rows, :, :time] = keys_values[:, self.source]
        return keys_values
