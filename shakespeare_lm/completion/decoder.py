"""texts -> logits: reads texts that grow by a character at a time through windows.

Enters: texts as ids. Leaves: the logits of what follows each. The network sees a window of at most
`context_length` characters, which is read once and then grows with the text. When it is full, it
begins anew with the newest characters: with "stride" with half of them, which is read again only
every half window; with "exact" with all but the oldest, which is read again for every character.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from shakespeare_lm.network.transformer import CausalTransformer

Window = Literal["stride", "exact"]


def characters_kept(window: Window, context_length: int) -> int:
    """Return how many of the newest characters a full window begins anew with."""
    return max(1, context_length // 2) if window == "stride" else context_length


class CachedReader:
    """Reads each character once for as long as its window lasts.

    Args:
        transformer: the network; reading switches it to evaluation for as long as it takes.
        batch: number of texts.
        window: how a full window moves on.
        fixed_shape: let all steps have one shape, as a compiled network wants.
    """

    def __init__(
        self, transformer: CausalTransformer, batch: int, window: Window, fixed_shape: bool = False
    ) -> None:
        self.transformer = transformer
        self.context_length = transformer.context_length
        self.cache = transformer.new_cache(batch, fixed_shape)
        self._kept = characters_kept(window, self.context_length)
        self._started = False

    def logits(self, texts: Sequence[deque[int]]) -> Tensor:
        """Return the logits `[batch, vocab]` of what follows each text, which has grown by an id
        since the last call.
        """
        newest = torch.tensor([text[-1] for text in texts], device=self.cache.positions.device)
        with evaluating(self.transformer), _without_onednn(self.cache.layers[0]):
            self._begin_windows(texts)
            return self.transformer.step(self.cache, newest)

    def _begin_windows(self, texts: Sequence[deque[int]]) -> None:
        """Let windows that are full, or were never begun, hold all but the newest character."""
        full, kept = self.context_length, self._kept if self._started else self.context_length
        rows = [
            n for n, length in enumerate(self.cache.lengths) if not self._started or length == full
        ]
        self._started = True
        if rows:
            windows = [list(texts[row])[-kept:-1] for row in rows]
            at = torch.tensor(rows, device=self.cache.positions.device)
            self.transformer.prefill(self.cache, at, windows)


class WholeReader:
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
        """Return the logits `[batch, vocab]` of what follows each text, which has grown by an id
        since the last call.
        """
        self._lengths = [self._next_length(row, text) for row, text in enumerate(texts)]
        windows = [list(text)[-n:] for text, n in zip(texts, self._lengths, strict=True)]
        device, time = next(self.network.parameters()).device, max(self._lengths)
        # What stands on the right of a window changes nothing in it.
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


@contextmanager
def _without_onednn(like: Tensor) -> Iterator[None]:
    """Keep torch from handing GELU to oneDNN on a CPU in single precision.

    There its set-up for the one character of a step takes longer than the function (torch 2.13: 23
    instead of 4 us), a tenth of the step in all. Products of matrices in half precision need it.
    """
    if like.device.type != "cpu" or like.dtype != torch.float32:
        yield
        return
    enabled, *_ = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=enabled)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation, without gradients, and leave it as it was."""
    training = network.training
    if training:
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            network.train()
