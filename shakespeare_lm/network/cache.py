"""Beside the transformer: what it has read of windows that grow, so that nothing is read twice.

Enters: ids, and each layer's keys and values of them. Leaves: the keys and values of all characters
of each window so far. Only completion needs it; training sees whole windows at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.errors import UserError
from shakespeare_lm.network.attention import Remember


class CacheShape(NamedTuple):
    """What a network needs to remember of one window."""

    num_layers: int
    num_heads: int
    context_length: int
    head_dim: int
    previous_characters: int
    padding_id: int


class KeyValueCache:
    """The keys and values of every layer for `batch` windows, allocated once.

    Windows may have different lengths: position p of a window lies in column p of its row.

    Args:
        batch: number of windows.
        shape: of the network.
        like: a tensor of the network, for its dtype and device.
        fixed_shape: let every step look at all columns, under a mask, so that all steps have one
            shape and can be compiled.
    """

    def __init__(
        self, batch: int, shape: CacheShape, like: Tensor, fixed_shape: bool = False
    ) -> None:
        self.shape = shape
        self.fixed_shape = fixed_shape
        size = (2, batch, shape.num_heads, shape.context_length, shape.head_dim)
        # Keys and values of each layer. Zeros, because what a mask hides is still multiplied (by
        # zero) and must not be NaN.
        self.layers = [like.new_zeros(size) for _ in range(shape.num_layers)]
        if fixed_shape:
            for layer in self.layers:  # which lets CUDA graphs write to them
                torch._dynamo.mark_static_address(layer)
        self.lengths = [0] * batch
        # The same on the device: where in its window each row's newest character stands.
        self.positions = torch.full((batch,), -1, device=like.device)
        # Where the newest character stands in the table of positions, and what it may look at:
        # everything, if there is no mask.
        self.places: slice | Tensor = slice(0)
        self.mask: Tensor | None = None
        self._reach = 0  # how many columns the longest window fills
        self._rows = torch.arange(batch, device=like.device)
        self._columns = torch.arange(shape.context_length, device=like.device)
        width = shape.previous_characters + shape.context_length
        self._ids = torch.full((batch, width), shape.padding_id, device=like.device)
        self._nearest = torch.arange(shape.previous_characters + 1, device=like.device)

    def begin(self, rows: Tensor, windows: Sequence[Sequence[int]]) -> Tensor:
        """Start these rows anew with these windows, whose keys and values are still to come.

        Returns:
            Their ids `[windows, time]`, padded on the right.
        """
        time, padding_id = max(map(len, windows)), self.shape.padding_id
        padded = [[*window] + [padding_id] * (time - len(window)) for window in windows]
        ids = torch.tensor(padded, dtype=torch.long, device=rows.device)
        first = self.shape.previous_characters
        self._ids[rows, first : first + time] = ids
        lengths = list(map(len, windows))
        self.positions[rows] = torch.tensor(lengths, device=rows.device) - 1
        for row, length in zip(rows.tolist(), lengths, strict=True):
            self.lengths[row] = length
        return ids

    def store(self, layer: int, rows: Tensor, source: Tensor) -> Remember:
        """Return what keeps a layer's keys and values of whole windows: those of window `source[i]`
        for row `rows[i]`.
        """

        def remember(new: Tensor) -> Tensor:
            self.layers[layer][:, rows, :, : new.shape[3]] = new[:, source]
            return new

        return remember

    def append(self, ids: Tensor) -> Tensor:
        """Let every window grow by one of the ids `[batch]`.

        Returns:
            Each window's newest ids, `[batch, previous_characters + 1]`.

        Raises:
            UserError: if a window is full.
        """
        if max(self.lengths) >= self.shape.context_length:
            raise UserError(f"a window holds at most {self.shape.context_length} characters")
        self.lengths = [length + 1 for length in self.lengths]
        self.positions += 1
        self._reach = self.shape.context_length if self.fixed_shape else max(self.lengths)
        self.places, self.mask = slice(self._reach - 1, self._reach), None
        if self.fixed_shape or min(self.lengths) < self._reach:
            self.places, self.mask = self.positions[:, None], self._filled()
        return self._note(ids)

    def _note(self, ids: Tensor) -> Tensor:
        """Write the newest ids beside those before them; return as many as the network wants."""
        before = self.shape.previous_characters
        if self.mask is None:
            self._ids[:, self._reach - 1 + before] = ids
            return self._ids[:, self._reach - 1 : self._reach + before]
        self._ids[self._rows, self.positions + before] = ids
        return self._ids.gather(1, self.positions[:, None] + self._nearest)

    def _filled(self) -> Tensor:
        """Return `[batch, 1, 1, columns]`, True in the columns that a row has filled.

        The axes are those of attention weights: heads and the one new position are between.
        """
        return (self._columns[: self._reach] <= self.positions[:, None])[:, None, None]

    def extend(self, layer: int) -> Remember:
        """Return what keeps a layer's keys and values of one new character per window, and returns
        those of all characters so far.
        """

        def remember(new: Tensor) -> Tensor:
            known = self.layers[layer]
            if self.mask is None:  # a slice is written faster than scattered places
                known[:, :, :, self.places] = new
            else:
                known[:, self._rows, :, self.positions] = new[:, :, :, 0].transpose(0, 1)
            return known[:, :, :, : self._reach]

        return remember
