"""text -> ids -> windows -> a batch: where windows are in the text, and the padded tensors cut from
there.

A window holds `context_length + 1` ids: its inputs are all but the last, its targets all but the
first. Consecutive windows share one id, so every character of a document but its first is a target
exactly once per epoch. Short windows (the last of a document, or the first after a shift) are
padded on the right. For training, some are halved, so that every row of every batch has one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shakespeare_lm.data.tokenizer import CharTokenizer

# Encoding needs 12 temporary bytes per character.
_CHARACTERS_PER_SLICE = 1 << 20


class Documents(NamedTuple):
    """Encoded documents, concatenated."""

    ids: Tensor  # `[characters]`, of the smallest integer type that holds them
    lengths: Tensor  # `[documents]`, in characters


def encode_documents(documents: Sequence[str], tokenizer: CharTokenizer) -> Documents:
    """Encode documents, all of whose characters must be in the vocabulary, by table look-up instead
    of one Python step per character.
    """
    code_points = torch.tensor([ord(character) for character in tokenizer.vocabulary])
    dtype = torch.uint8 if len(code_points) <= 256 else torch.int16
    if len(code_points) > 1 << 15:
        dtype = torch.int32
    id_of_code_point = torch.zeros(int(code_points.max()) + 1, dtype=dtype)
    id_of_code_point[code_points] = torch.arange(len(code_points)).to(dtype)
    lengths = [len(document) for document in documents]
    # Filled in place: concatenating pieces would need the memory twice.
    ids, end = torch.empty(sum(lengths), dtype=dtype), 0
    for document in documents:
        for start in range(0, len(document), _CHARACTERS_PER_SLICE):
            text = document[start : start + _CHARACTERS_PER_SLICE]
            codes = torch.frombuffer(bytearray(text.encode("utf-32-le")), dtype=torch.int32)
            ids[end : end + len(text)] = id_of_code_point[codes]
            end += len(text)
    return Documents(ids, torch.tensor(lengths, dtype=torch.long))


class Batch(NamedTuple):
    """What one training or validation step sees; all five are `[batch, time]`.

    In both masks True means a real character. The last one of a window that is not full has no
    target. The causal mask hides padding on the right: our networks need no `attention_mask`.
    """

    inputs: Tensor
    targets: Tensor
    attention_mask: Tensor
    target_mask: Tensor
    positions: Tensor  # of the targets in `Documents.ids`; any valid one for padding


class Windows(NamedTuple):
    """Where windows are in `Documents.ids`: both `[windows]`."""

    starts: Tensor
    sizes: Tensor  # numbers of ids


def grid_windows(lengths: Tensor, context_length: int, offset: int = 0) -> Windows:
    """Cut every document into consecutive windows of up to `context_length` targets; with an
    `offset` (0 <= offset < context_length), the first of each document has only that many.
    """
    targets = (lengths - 1).clamp(min=0)
    counts = 1 + (targets - offset).clamp(min=0).add(context_length - 1) // context_length
    document = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    number = torch.arange(len(document)) - (counts.cumsum(0) - counts)[document]
    # In targets of the document: window `number` covers those from `first` up to `end`, exclusive.
    first = (offset + (number - 1) * context_length).clamp(min=0)
    end = torch.minimum(offset + number * context_length, targets[document])
    begin = (lengths.cumsum(0) - lengths)[document]
    filled = end > first
    return Windows((begin + first)[filled], (end - first + 1)[filled])


def halve_windows(windows: Windows, count: int) -> Windows:
    """Cut `count` windows, evenly spaced among those with at least 2 targets, into halves; all of
    these if they are fewer. Like consecutive windows, the halves share one id.
    """
    targets = windows.sizes - 1
    divisible = (targets >= 2).nonzero()[:, 0]
    count = min(count, len(divisible))
    chosen = divisible[torch.arange(count) * len(divisible) // max(1, count)]
    first = torch.zeros_like(targets)  # targets of the first half; 0 for a window that stays whole
    first[chosen] = targets[chosen] // 2
    starts = torch.stack((windows.starts, windows.starts + first), dim=1)
    sizes = torch.stack((first + 1, windows.sizes - first), dim=1)
    filled = sizes > 1
    return Windows(starts[filled], sizes[filled])


def random_windows(
    lengths: Tensor, context_length: int, count: int, generator: torch.Generator
) -> Windows:
    """Draw `count` windows whose first character is uniform over all that have a next one. Those
    that start near the end of a document are short.
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
    """Gather windows into a batch `[windows, context_length]`; one of size 0 becomes a row of
    padding. Targets are shifted, and batches padded, only here.
    """
    column = torch.arange(context_length + 1)
    real = column < windows.sizes[:, None]
    positions = (windows.starts[:, None] + column).clamp(max=len(ids) - 1)
    window = ids[positions].long().masked_fill(~real, padding_id)
    return Batch(window[:, :-1], window[:, 1:], real[:, :-1], real[:, 1:], positions[:, 1:])
