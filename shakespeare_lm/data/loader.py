"""windows -> batches: in which order windows are seen, and where a resumed run continues.

Enters: encoded documents. Leaves: one `Batch` after the other, each epoch in an order of its own.
"""

import random
from collections.abc import Iterator
from typing import Literal, get_args

import torch

from shakespeare_lm.data.documents import Documents
from shakespeare_lm.data.windows import (
    Batch,
    Windows,
    collate,
    grid_windows,
    halve_windows,
    random_windows,
)
from shakespeare_lm.errors import UserError, check_at_least, check_choice, check_type

WindowOrder = Literal["sequential", "grid", "shifted", "random"]

# This many characters are gathered at once: the fixed cost of a tensor operation is paid once for
# many batches.
_CHARACTERS_PER_GATHER = 1 << 18


def check_loader_options(
    context_length: int, batch_size: int, window_order: WindowOrder, seed: int
) -> None:
    """Raise a `UserError` that names the first of these that has the wrong type or value."""
    check_type(int, context_length=context_length, batch_size=batch_size, seed=seed)
    check_at_least(1, context_length=context_length, batch_size=batch_size)
    check_choice("window_order", window_order, get_args(WindowOrder))


class WindowLoader:
    """Yields the batches of one epoch per iteration, all of shape `[batch_size, context_length]`.

    Windows and their order depend only on (seed, epoch). They are spread evenly over the epoch's
    batches, and over the processes of a distributed run. There are rarely as many windows as rows:
    the other rows hold only padding, unless `fill_rows` cuts some windows into two.
    Looking up a batch of a corpus in memory takes microseconds, so there are no worker processes,
    and the position in the data is a few numbers: Lightning saves `state_dict` in every checkpoint
    and calls `load_state_dict` on resume, so a resumed run continues with the very next batch.

    Args:
        documents: the encoded text.
        context_length: targets per full window.
        batch_size: windows per batch and process.
        padding_id: the id that fills short windows.
        window_order: "sequential" is the order of the text; "grid" shuffles the same windows anew
            each epoch; "shifted" also moves them by a new offset each epoch; "random" draws as many
            windows at random positions (some characters twice, some never).
        seed: determines, with the epoch's number, all of the above.
        fill_rows: for training: halve as many windows as rows would be empty (each once at most, so
            a very short text still leaves some), or draw as many at random as there are rows.
        rank: the number of this process.
        world_size: the number of processes; each gets its own shard of every global batch.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        context_length: int,
        batch_size: int,
        padding_id: int,
        window_order: WindowOrder = "sequential",
        seed: int = 0,
        fill_rows: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_loader_options(context_length, batch_size, window_order, seed)
        self.documents = documents
        self.context_length = context_length
        self.batch_size = batch_size
        self.padding_id = padding_id
        self.window_order = window_order
        self.seed = seed
        self.fill_rows = fill_rows
        self.rank = rank
        self.world_size = world_size
        self._grid_size = len(grid_windows(documents.lengths, context_length).starts)
        # The same in every epoch: a shifted grid can have one more window per document.
        more = int((documents.lengths > 1).sum()) if window_order == "shifted" else 0
        self._num_batches = -(-(self._grid_size + more) // (batch_size * world_size))
        self._epoch = -1
        self._next_batch = 0
        self._resuming = False

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        if not self._resuming:
            self._epoch, self._next_batch = self._epoch + 1, 0
        self._resuming = False
        windows = self.windows(self._epoch)
        per_gather = max(1, _CHARACTERS_PER_GATHER // (self.batch_size * self.context_length))
        for first in range(self._next_batch, len(self), per_gather):
            batches = range(first, min(first + per_gather, len(self)))
            for index, batch in zip(batches, self._gather(windows, batches), strict=True):
                self._next_batch = index + 1
                yield batch

    def windows(self, epoch: int) -> Windows:
        """Return all windows of an epoch, for all processes, in their order."""
        generator = torch.Generator().manual_seed(
            random.Random(f"windows {self.seed} {epoch}").getrandbits(63)
        )
        lengths, time = self.documents.lengths, self.context_length
        rows = len(self) * self.batch_size * self.world_size
        if self.window_order == "random":
            count = rows if self.fill_rows else self._grid_size
            return random_windows(lengths, time, count, generator)
        shifted = self.window_order == "shifted"
        offset = int(torch.randint(time, (), generator=generator)) if shifted else 0
        windows = grid_windows(lengths, time, offset)
        if self.fill_rows:
            windows = halve_windows(windows, rows - len(windows.starts))
        if self.window_order == "sequential":
            return windows
        order = torch.randperm(len(windows.starts), generator=generator)
        return Windows(windows.starts[order], windows.sizes[order])

    def _gather(self, windows: Windows, batches: range) -> Iterator[Batch]:
        """Collate several batches at once: this rank's shard of each global batch."""
        shard = torch.tensor(batches) * self.world_size + self.rank
        shards, count = len(self) * self.world_size, len(windows.starts)
        first, end = shard * count // shards, (shard + 1) * count // shards
        rows = first[:, None] + torch.arange(self.batch_size)
        free = rows >= end[:, None]
        rows = rows.clamp(max=count - 1)
        chosen = Windows(windows.starts[rows], windows.sizes[rows].masked_fill(free, 0))
        flat = Windows(chosen.starts.flatten(), chosen.sizes.flatten())
        gathered = collate(self.documents.ids, flat, self.context_length, self.padding_id)
        parts = (tensor.split(self.batch_size) for tensor in gathered)
        return (Batch(*batch) for batch in zip(*parts, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration start at the beginning of this epoch."""
        self._epoch, self._next_batch, self._resuming = epoch, 0, True

    def state_dict(self) -> dict[str, int]:
        """Return the position in the data: the epoch, the next batch, and of how many."""
        return {"epoch": self._epoch, "next_batch": self._next_batch, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration continue where `state_dict` was taken.

        Raises:
            UserError: if epochs had another number of batches there, so the position would mean
                nothing here.
        """
        if not all(type(state.get(name)) is int for name in self.state_dict()):
            raise UserError("invalid data position in the checkpoint: expected three integers")
        if state["batches"] != len(self):
            raise UserError(
                f"an epoch of the checkpoint's run has {state['batches']} batches, but one of this "
                f"run has {len(self)}: resume with the text, batch size and number of processes of "
                "the first run"
            )
        if not (state["epoch"] >= -1 and 0 <= state["next_batch"] <= len(self)):
            raise UserError(f"invalid data position in the checkpoint: {state}")
        self.set_epoch(max(0, state["epoch"]))  # -1: no epoch had begun
        self._next_batch = state["next_batch"]
        if self._next_batch >= len(self):
            self.set_epoch(state["epoch"] + 1)
