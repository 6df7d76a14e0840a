"""texts that come and go -> logits: continuous batching.

Enters: the texts that are being completed now, some of them new. Leaves: their next-character
logits. What `CachedDecoder` does for texts that start together, for texts that join and leave.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shakespeare_lm.completion.cached_forward import CachedForward
from shakespeare_lm.completion.decoder import Window, characters_kept
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.model.transformer import CausalTransformer


class ContinuousDecoder:
    """Reads each character once per window, whichever texts are there.

    Args:
        network: a transformer, or the bigram table.
        window: how a full window moves on (see decoder.py).
    """

    def __init__(self, network: nn.Module, window: Window = "stride") -> None:
        self.network = network
        self.forward = CachedForward(network) if isinstance(network, CausalTransformer) else None
        if self.forward is not None:
            self.context_length = self.forward.transformer.config.context_length
            self.cache = self.forward.new_cache(0)
            self._kept = characters_kept(window, self.context_length)

    def logits(self, texts: Sequence[deque[int]], rows: Sequence[int | None]) -> Tensor:
        """Return the logits `[texts, vocab]` after each text.

        Args:
            texts: the ids of each; an old one has grown by one since the last call.
            rows: the place of each among the texts of the last call; None for new ones, which come
                after the old ones.
        """
        newest = [text[-1] for text in texts]
        device = next(self.network.parameters()).device
        with evaluating(self.network):
            ids = torch.tensor(newest, device=device)
            if self.forward is None:
                found: Tensor = self.network(ids[:, None])[:, 0]
                return found
            self._change_rows(texts, rows)
            return self.forward.step(self.cache, ids)

    def _change_rows(self, texts: Sequence[deque[int]], rows: Sequence[int | None]) -> None:
        """Keep the rows of old texts, add rows for new ones, and restart windows that are full."""
        assert self.forward is not None
        old = [row for row in rows if row is not None]
        new = len(rows) - len(old)
        if new or old != list(range(len(self.cache.lengths))):
            self.cache = self.cache.with_rows(old, new)
        windows = {}
        for row, text in enumerate(texts):
            if row >= len(old):
                windows[row] = list(text)[-self.context_length : -1]
            elif self.cache.lengths[row] == self.context_length:
                windows[row] = list(text)[-self._kept : -1]
        if windows:
            at = torch.tensor(list(windows), device=self.cache.positions.device)
            self.forward.prefill(self.cache, at, list(windows.values()))
