"""texts -> logits: incremental decoding over a sliding context window.

When a window of `context_length` characters is full, "stride" restarts it with its newer half;
"exact" drops the oldest character, and reads the whole window again for every character.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.network import Network

Window = Literal["stride", "exact"]


def characters_kept(window: Window, context_length: int) -> int:
    """Return how many of the newest characters a full window is restarted with."""
    return max(1, context_length // 2) if window == "stride" else context_length


class Decoder(Protocol):
    """Computes the next-character logits of growing texts."""

    context_length: int

    def logits(self, texts: Sequence[deque[int]]) -> Tensor:
        """Return the logits `[batch, vocab]` after each text, which grows by an id per call."""
        ...


class CachedDecoder:
    """Reads each character of `batch` texts once per window.

    With a `fixed_shape`, all steps have the same shapes, as a compiled network needs.
    """

    def __init__(
        self, forward: CachedForward, batch: int, window: Window, fixed_shape: bool = False
    ) -> None:
        self.forward = forward
        self.context_length = forward.network.config.context_length
        self.cache = forward.new_cache(batch, fixed_shape)
        self._kept = characters_kept(window, self.context_length)

    def logits(
        self, texts: Sequence[deque[int]], rows: Sequence[int | None] | None = None
    ) -> Tensor:
        """Return the logits `[batch, vocab]` after each text, which grows by an id per call.

        `rows` has the index of each among the texts of the last call, None for new ones; most
        should keep their index, because others are copied.
        """
        newest = torch.tensor([text[-1] for text in texts], device=self.cache.newest.device)
        with evaluating(self.forward.network):
            if rows is not None and list(rows) != list(range(len(self.cache.lengths))):
                self.cache.change_rows(rows)
            self.begin_windows(texts)
            return self.forward.step(self.cache, newest)

    def begin_windows(self, texts: Sequence[deque[int]]) -> None:
        """Fill windows that are full, or have not begun, with all but the newest character."""
        windows = {}
        for row, text in enumerate(texts):
            if self.cache.lengths[row] == 0:
                windows[row] = list(text)[-self.context_length : -1]
            elif self.cache.lengths[row] == self.context_length:
                windows[row] = list(text)[-self._kept : -1]
        if windows:
            at = torch.tensor(list(windows), device=self.cache.newest.device)
            self.forward.prefill(self.cache, at, list(windows.values()))


class ContinuousDecoder(CachedDecoder):
    """Decodes texts that join and leave at any step (continuous batching).

    Raises:
        UserError: if the network has no cache.
    """

    def __init__(self, network: nn.Module, window: Window = "stride") -> None:
        if not isinstance(network, Network) or not network.reads_past:
            raise UserError(
                f"the network {type(network).__name__} has no key-value cache, which completing "
                "many texts together needs: complete with it one by one"
            )
        super().__init__(CachedForward(network), batch=0, window=window)


class UncachedDecoder:
    """Reads the whole window for every character: the same logits, slowly, of any network that maps
    ids `[batch, time]` to logits `[batch, time, vocab]`.
    """

    def __init__(self, network: nn.Module, context_length: int, window: Window) -> None:
        self.network, self.context_length = network, context_length
        self._kept = characters_kept(window, context_length)
        self._lengths: list[int] = []

    def logits(self, texts: Sequence[deque[int]]) -> Tensor:
        grown = [self._kept if n == self.context_length else n + 1 for n in self._lengths]
        self._lengths = grown or [len(text) for text in texts]
        pairs = zip(texts, self._lengths, strict=True)
        windows = [torch.tensor([*text][-length:]) for text, length in pairs]
        device = next(self.network.parameters()).device
        with evaluating(self.network):
            # Padding on the right of a window changes nothing in it.
            logits = self.network(pad_sequence(windows, batch_first=True).to(device))
        return logits[range(len(texts)), [length - 1 for length in self._lengths]]
