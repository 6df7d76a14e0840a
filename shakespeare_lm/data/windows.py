"""ids -> windows -> a batch: where windows are in the text, and the padded tensors cut from there.

Enters: the lengths of documents, and their ids. Leaves: `Batch`, four tensors `[batch, time]`. A
window holds `context_length + 1` ids: its inputs are all but the last, its targets all but the
first. Consecutive windows share one id, so every character of a document but its first is a target
exactly once per epoch. Short windows (the last of a document, or the first after a shift) are
padded on the right. For training, some are halved, so that every row of every batch has one.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """What one training or validation step sees; all four are `[batch, time]`.

    In both masks True means a real character. The last character of a window that is not full has
    no target. Because padding is on the right, the causal mask hides it, and our networks do not
    need `attention_mask`.
    """

    inputs: Tensor
    targets: Tensor
    attention_mask: Tensor
    target_mask: Tensor


class Windows(NamedTuple):
    """Where windows are in `Documents.ids`: first position and number of ids, both `[windows]`."""

    starts: Tensor
    sizes: Tensor


def grid_windows(lengths: Tensor, context_length: int, offset: int = 0) -> Windows:
    """Cut every document into consecutive windows of up to `context_length` targets.

    With an `offset` (0 <= offset < context_length) the first window of each document has only that
    many targets, and the grid is shifted by it.
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
    """Cut `count` windows, evenly spaced among those with at least 2 targets, into halves.

    Each target stays in exactly one window: like consecutive windows, the halves share one id. If
    fewer windows have 2 targets, all of these are halved.
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
    """Draw `count` windows whose first character is uniform over all characters that have a next
    one.

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
    """Gather windows into a batch `[windows, context_length]`: the only place where targets are
    shifted and batches are padded.

    A window of size 0 becomes a row of padding, which no loss counts.
    """
    place = torch.arange(context_length + 1)
    real = place < windows.sizes[:, None]
    positions = (windows.starts[:, None] + place).clamp(max=len(ids) - 1)
    window = ids[positions].long().masked_fill(~real, padding_id)
    return Batch(window[:, :-1], window[:, 1:], real[:, :-1], real[:, 1:])
