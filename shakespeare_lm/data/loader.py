"""windows -> batches: in which order windows are seen, and where a resumed run continues."""

import random
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import torch

from shakespeare_lm.data.windows import (
    Batch,
    Documents,
    Windows,
    collate,
    grid_windows,
    halve_windows,
    random_windows,
)
from shakespeare_lm.errors import UserError, check_at_least, check_choice, check_type

WindowOrder = Literal["sequential", "grid", "shifted", "random"]

# Gathered at once: the fixed cost of a tensor operation is paid once for many batches.
_CHARACTERS_PER_GATHER = 1 << 18


def check_loader_options(
    context_length: int, batch_size: int, window_order: WindowOrder, seed: int
) -> None:
    """Raise a `UserError` that names the first of these that has the wrong type or value."""
    check_type(int, context_length=context_length, batch_size=batch_size, seed=seed)
    check_at_least(1, context_length=context_length, batch_size=batch_size)
    check_choice("window_order", window_order, get_args(WindowOrder))


@dataclass(repr=False, eq=False)
class WindowLoader:
    """Yields the batches of one epoch per iteration, all of shape `[batch_size, context_length]`.

    Windows and their order depend only on (seed, epoch). They are spread evenly over the epoch's
    batches, and over the processes of a distributed run. There are rarely as many windows as rows:
    the other rows hold only padding, unless `fill_rows` cuts some windows into two.
    Looking up a batch of a corpus in memory takes microseconds, so there are no worker processes,
    and the position in the data is a few numbers: Lightning saves `state_dict` in every checkpoint
    and calls `load_state_dict` on resume, so a resumed run continues with the very next batch.
    """

    documents: Documents
    _: KW_ONLY
    context_length: int  # targets per full window
    batch_size: int  # windows per batch and process
    padding_id: int  # fills short windows
    # As `ShakespeareDataModule` describes them; "random" sees some characters twice, some never.
    window_order: WindowOrder = "sequential"
    seed: int = 0  # determines the order, with the number of the epoch
    # For training: halve as many windows as rows would be empty (each once at most, so a very short
    # text still leaves some), or draw as many at random as there are rows.
    fill_rows: bool = False
    rank: int = 0  # of this process
    world_size: int = 1  # processes, each of which gets its own shard of every global batch

    def __post_init__(self) -> None:
        check_loader_options(self.context_length, self.batch_size, self.window_order, self.seed)
        lengths, per_batch = self.documents.lengths, self.batch_size * self.world_size
        self._grid_size = len(grid_windows(lengths, self.context_length).starts)
        # The same in every epoch: a shifted grid can have one more window per document.
        more = int((lengths > 1).sum()) if self.window_order == "shifted" else 0
        self._num_batches = -(-(self._grid_size + more) // per_batch)
        self._epoch, self._next_batch, self._resuming = -1, 0, False

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        if not self._resuming:
            self.set_epoch(self._epoch + 1)
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
        free = (rows >= end[:, None]).flatten()
        rows = rows.flatten().clamp(max=count - 1)
        chosen = Windows(windows.starts[rows], windows.sizes[rows].masked_fill(free, 0))
        gathered = collate(self.documents.ids, chosen, self.context_length, self.padding_id)
        parts = (tensor.split(self.batch_size) for tensor in gathered)
        return map(Batch._make, zip(*parts, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration start at the beginning of this epoch."""
        self._epoch, self._next_batch, self._resuming = epoch, 0, True

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "next_batch": self._next_batch, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration continue where `state_dict` was taken, in an epoch of as many
        batches; anything else is refused with a `UserError`.
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
