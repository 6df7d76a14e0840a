"""tokenizer -> chunks -> batches: documents become windows of ids, windows become padded batches.

Enters: documents and a tokenizer. Leaves: `Batch`, four tensors `[batch, time]`. A window holds
`context_length + 1` ids: its inputs are all but the last, its targets all but the first.
Neighbouring windows share one id, so that each character of a document but its first is a target
exactly once per epoch. Short windows (the last of a document, or the first after a shift) are
padded on the right.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError

Sampling = Literal["sequential", "grid", "shifted", "random"]

# Encoding needs 12 passing bytes a character: in slices of this many, that never shows in memory.
_CHARACTERS_PER_SLICE = 1 << 20
# So many are gathered at once: the fixed cost of a tensor operation is paid once for many batches.
_CHARACTERS_PER_GATHER = 1 << 18


class Batch(NamedTuple):
    """What one training or validation step sees; all four are `[batch, time]`.

    In both masks True means a real character. The last character of a document is a real input
    (`attention_mask`) without a real target (`target_mask`).
    """

    inputs: Tensor
    targets: Tensor
    attention_mask: Tensor
    target_mask: Tensor


class Documents(NamedTuple):
    """Encoded documents, one after the other.

    `ids` is `[characters]`, in the smallest integer type that holds them (one byte up to 256
    symbols); `lengths` is `[documents]`, in characters.
    """

    ids: Tensor
    lengths: Tensor


class Windows(NamedTuple):
    """Where windows lie in `Documents.ids`: first position and number of ids, both `[windows]`."""

    starts: Tensor
    sizes: Tensor


def encode_documents(documents: Sequence[str], tokenizer: CharTokenizer) -> Documents:
    """Encode whole documents by one table look-up instead of one Python step per character.

    Every character must be in the vocabulary, as it is when the vocabulary was built from these
    documents.
    """
    code_points = torch.tensor([ord(character) for character in tokenizer.vocabulary])
    small = torch.uint8 if len(code_points) <= 256 else torch.int16
    if len(code_points) > 1 << 15:
        small = torch.int32
    id_of_code_point = torch.zeros(int(code_points.max()) + 1, dtype=small)
    id_of_code_point[code_points] = torch.arange(len(code_points)).to(small)
    lengths = [len(document) for document in documents]
    # Filled in place: a list of pieces would need the memory twice.
    ids, end = torch.empty(sum(lengths), dtype=small), 0
    for document in documents:
        for start in range(0, len(document), _CHARACTERS_PER_SLICE):
            text = document[start : start + _CHARACTERS_PER_SLICE]
            ids[end : end + len(text)] = id_of_code_point[_code_points(text)]
            end += len(text)
    return Documents(ids, torch.tensor(lengths, dtype=torch.long))


def _code_points(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode("utf-32-le")), dtype=torch.int32)


def grid_windows(lengths: Tensor, context_length: int, offset: int = 0) -> Windows:
    """Cut every document into windows of up to `context_length` targets, beside each other.

    With an `offset` (0 <= offset < context_length) the first window of each document has only that
    many targets, and the grid lies that much later.
    """
    targets = (lengths - 1).clamp(min=0)
    counts = 1 + (targets - offset).clamp(min=0).add(context_length - 1) // context_length
    document = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    number = torch.arange(len(document)) - (counts.cumsum(0) - counts)[document]
    # In targets of the document: window `number` covers those from `first` to (but without) `end`.
    first = (offset + (number - 1) * context_length).clamp(min=0)
    end = torch.minimum(offset + number * context_length, targets[document])
    begin = (lengths.cumsum(0) - lengths)[document]
    filled = end > first
    return Windows((begin + first)[filled], (end - first + 1)[filled])


def random_windows(
    lengths: Tensor, context_length: int, count: int, generator: torch.Generator
) -> Windows:
    """Draw `count` windows whose first character is uniform over all that have a next one.

    A window ends with its document: one that starts near the end is short.
    """
    targets = (lengths - 1).clamp(min=0)
    targets_before = targets.cumsum(0)
    drawn = torch.randint(int(targets.sum()), (count,), generator=generator)
    document = torch.searchsorted(targets_before, drawn, right=True)
    first = drawn - (targets_before - targets)[document]
    begin = (lengths.cumsum(0) - lengths)[document]
    sizes = (targets[document] - first).clamp(max=context_length) + 1
    return Windows(begin + first, sizes)


def collate(ids: Tensor, windows: Windows, context_length: int, padding_id: int) -> Batch:
    """Gather windows into a batch `[windows, context_length]`: the one place where targets are
    shifted.

    A window of size 0 becomes a row of padding alone, which no loss counts.
    """
    place = torch.arange(context_length + 1)
    real = place < windows.sizes[:, None]
    positions = (windows.starts[:, None] + place).clamp(max=len(ids) - 1)
    window = ids[positions].long().masked_fill(~real, padding_id)
    return Batch(window[:, :-1], window[:, 1:], real[:, :-1], real[:, 1:])


class WindowLoader:
    """Yields the batches of one epoch per iteration, all of shape `[batch_size, context_length]`.

    Which windows, and in which order, depends on (seed, epoch) alone. They are spread evenly over
    the epoch's batches, and over the processes of a distributed run; rows that stay free hold
    padding alone. Batched look-up in a corpus that lies in memory takes microseconds, so no worker
    processes are needed, and the place in the epoch is two numbers: `state_dict` and
    `load_state_dict`, which Lightning calls, let a resumed run go on with the very next batch.

    Args:
        documents: the encoded text.
        context_length: targets per full window.
        batch_size: windows per batch and process.
        padding_id: the id that fills up short windows.
        sampling: "sequential" takes windows beside each other in the order of the text, "grid"
            takes the same windows in a new order each epoch, "shifted" also moves them by a fresh
            offset each epoch, "random" draws as many windows at random places (some characters
            twice, some not at all).
        seed: decides, with the epoch's number, all of the above.
        rank: the number of this process.
        world_size: the number of processes, each of which gets its own share of each step's
            windows.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        context_length: int,
        batch_size: int,
        padding_id: int,
        sampling: Sampling = "sequential",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.documents = documents
        self.context_length = context_length
        self.batch_size = batch_size
        self.padding_id = padding_id
        self.sampling = sampling
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._grid_size = len(grid_windows(documents.lengths, context_length).starts)
        # The same in every epoch: a shifted grid can have one window more per document.
        more = int((documents.lengths > 1).sum()) if sampling == "shifted" else 0
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
        if self.sampling == "random":
            return random_windows(lengths, time, self._grid_size, generator)
        shifted = self.sampling == "shifted"
        offset = int(torch.randint(time, (), generator=generator)) if shifted else 0
        windows = grid_windows(lengths, time, offset)
        if self.sampling == "sequential":
            return windows
        order = torch.randperm(len(windows.starts), generator=generator)
        return Windows(windows.starts[order], windows.sizes[order])

    def _gather(self, windows: Windows, batches: range) -> Iterator[Batch]:
        """Collate several batches at once; each process takes its share of each."""
        share = torch.tensor(batches) * self.world_size + self.rank
        shares, count = len(self) * self.world_size, len(windows.starts)
        first, end = share * count // shares, (share + 1) * count // shares
        rows = first[:, None] + torch.arange(self.batch_size)
        free = rows >= end[:, None]
        rows = rows.clamp(max=count - 1)
        chosen = Windows(windows.starts[rows], windows.sizes[rows].masked_fill(free, 0))
        flat = Windows(chosen.starts.flatten(), chosen.sizes.flatten())
        gathered = collate(self.documents.ids, flat, self.context_length, self.padding_id)
        parts = (tensor.split(self.batch_size) for tensor in gathered)
        return (Batch(*batch) for batch in zip(*parts, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration start at the beginning of this epoch."""
        self._epoch, self._next_batch, self._resuming = epoch, 0, True

    def state_dict(self) -> dict[str, int]:
        """Return the place in the data: the epoch, the batch that comes next, and of how many."""
        return {"epoch": self._epoch, "next_batch": self._next_batch, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start where `state_dict` was taken.

        Raises:
            UserError: if an epoch had another number of batches there: the place means nothing
                here.
        """
        if state["batches"] != len(self):
            raise UserError(
                f"an epoch of the checkpoint's run has {state['batches']} batches, but one of this "
                f"run {len(self)}: resume with the text, batch size and processes of the first run"
            )
        if not (state["epoch"] >= -1 and 0 <= state["next_batch"] <= len(self)):
            raise UserError(f"the checkpoint's place in the data is none: {state}")
        self.set_epoch(state["epoch"])
        self._next_batch = state["next_batch"]
        if self._next_batch >= len(self):
            self.set_epoch(state["epoch"] + 1)
