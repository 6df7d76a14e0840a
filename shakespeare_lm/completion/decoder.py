"""texts -> logits: incremental decoding over a sliding context window.

Enters: texts as ids, which have grown by one id since the last call. Leaves: their next-character
logits. The network sees a window of at most `context_length` characters. When it is full, it moves
on: "stride" restarts it with its newer half, which is read again once per half window; "exact"
drops the oldest character, and reads the whole window again for every character.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.inference import evaluating

Window = Literal["stride", "exact"]


def characters_kept(window: Window, context_length: int) -> int:
    """Return how many of the newest characters a full window is restarted with."""
    return max(1, context_length // 2) if window == "stride" else context_length


class Decoder(Protocol):
    """Computes the next-character logits of growing texts."""

    context_length: int

    def logits(self, texts: Sequence[deque[int]]) -> Tensor:
        """Return the logits `[batch, vocab]` after each text, which has grown by one id since the
        last call.
        """
        ...


class CachedDecoder:
    """Reads each character once per window.

    Args:
        forward: the network with its cache; decoding runs it in evaluation mode.
        batch: number of texts.
        window: how a full window moves on.
        fixed_shape: make all steps have the same shapes, as a compiled network needs.
    """

    def __init__(
        self, forward: CachedForward, batch: int, window: Window, fixed_shape: bool = False
    ) -> None:
        self.forward = forward
        self.context_length = forward.transformer.config.context_length
        self.cache = forward.new_cache(batch, fixed_shape)
        self._kept = characters_kept(window, self.context_length)
        self._started = False

    def logits(self, texts: Sequence[deque[int]]) -> Tensor:
        newest = torch.tensor([text[-1] for text in texts], device=self.cache.positions.device)
        with evaluating(self.forward.transformer):
            self.begin_windows(texts)
            return self.forward.step(self.cache, newest)

    def begin_windows(self, texts: Sequence[deque[int]]) -> None:
        """Fill windows that are full, or have not begun, with all but the newest character."""
        full, kept = self.context_length, self._kept if self._started else self.context_length
        rows = [
            n for n, length in enumerate(self.cache.lengths) if not self._started or length == full
        ]
        self._started = True
        if rows:
            windows = [list(texts[row])[-kept:-1] for row in rows]
            at = torch.tensor(rows, device=self.cache.positions.device)
            self.forward.prefill(self.cache, at, windows)


class UncachedDecoder:
    """Reads the whole window for every character: the same logits, slowly, of any network.

    Args:
        network: maps ids `[batch, time]` to logits `[batch, time, vocab]`.
        context_length: the longest window.
        window: how a full window moves on.
    """

    def __init__(self, network: nn.Module, context_length: int, window: Window) -> None:
        self.network = network
        self.context_length = context_length
        self._kept = characters_kept(window, context_length)
        self._lengths: list[int] = []

    def logits(self, texts: Sequence[deque[int]]) -> Tensor:
        self._lengths = [self._next_length(row, text) for row, text in enumerate(texts)]
        windows = [list(text)[-n:] for text, n in zip(texts, self._lengths, strict=True)]
        device, time = next(self.network.parameters()).device, max(self._lengths)
        # Padding on the right of a window changes nothing in it.
        padded = [window + window[-1:] * (time - len(window)) for window in windows]
        last = torch.tensor(self._lengths, device=device) - 1
        with evaluating(self.network):
            logits: Tensor = self.network(torch.tensor(padded, device=device))
        return logits[torch.arange(len(texts), device=device), last]

    def _next_length(self, row: int, text: deque[int]) -> int:
        if not self._lengths:
            return len(text)
        length = self._lengths[row]
        return self._kept if length == self.context_length else length + 1
