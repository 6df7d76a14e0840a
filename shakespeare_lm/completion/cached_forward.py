"""The forward pass with a key-value cache: windows are read once, then grow by one character per
step.

Enters: windows, then one id per window and step. Leaves: next-character logits, equal up to
rounding to those that `CausalTransformer.forward` computes for the whole window.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from shakespeare_lm.completion.cache import KeyValueCache
from shakespeare_lm.kernels.int8 import MOST_ROWS
from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.model.attention import AttentionInputs
from shakespeare_lm.model.transformer import CausalTransformer


class CachedForward:
    """Runs a transformer, in evaluation mode, on windows that grow.

    Args:
        transformer: the network.
        compile_step: compile the step with torch.compile, for caches of fixed shape, when it is
            first called.
    """

    def __init__(self, transformer: CausalTransformer, compile_step: bool = False) -> None:
        self.transformer = transformer
        self._all_int8 = not any(isinstance(x, nn.Linear) for x in transformer.modules())
        self._compiled: Callable[[KeyValueCache, Tensor, Tensor | None], Tensor] | None = None
        if compile_step:
            # No Python between the kernels on a CPU; on a GPU, a CUDA graph sees to that.
            self._compiled = torch.compile(
                self._advance,
                fullgraph=True,
                dynamic=False,
                options={"cpp_wrapper": not transformer.head.weight.is_cuda},
            )

    def new_cache(self, batch: int, fixed_shape: bool = False) -> KeyValueCache:
        """Return an empty cache for `batch` windows."""
        network = self.transformer
        return KeyValueCache(
            batch, network.config, network.padding_id, network.head.weight, fixed_shape
        )

    def prefill(self, cache: KeyValueCache, rows: Tensor, windows: Sequence[Sequence[int]]) -> None:
        """Replace the content of these rows of the cache by these windows; equal windows are
        computed once.
        """
        ids = cache.begin(rows, windows)
        if not ids.numel():
            return
        ids, source = ids.unique(dim=0, return_inverse=True)
        network = self.transformer
        x = network.embed(network.pad_left(ids))
        if isinstance(network, MemoryTransformer):
            read = network.recall(ids).added
            x = x if read is None else x + read
        x, rotation, mask = network.locate(x, slice(ids.shape[1]), None)
        for layer, block in enumerate(network.blocks):
            x = block(x, AttentionInputs(rotation, mask, cache.store(layer, rows, source)))

    def step(self, cache: KeyValueCache, ids: Tensor) -> Tensor:
        """Add one of the ids `[batch]` to each window of the cache.

        Returns:
            The logits `[batch, vocab]` of the next character.
        """
        advance = self._compiled if cache.fixed_shape and self._compiled else self._advance
        with _without_onednn() if self._needs_no_onednn(len(ids)) else nullcontext():
            recent = cache.append(ids)
            newest = recent[:, -1 - self.transformer.config.previous_characters :]
            if not isinstance(self.transformer, MemoryTransformer):
                return advance(cache, newest, None)
            read, expected = self.transformer.recall(recent)
            logits = advance(cache, newest, None if read is None else read[:, -1:])
            return self.transformer.join(logits, None if expected is None else expected[:, -1])

    def _needs_no_onednn(self, texts: int) -> bool:
        """Say whether no product of a step for this many texts goes through oneDNN."""
        weight = self.transformer.head.weight
        if weight.device.type != "cpu":
            return False
        return weight.dtype == torch.float32 or (self._all_int8 and texts <= MOST_ROWS)

    def _advance(self, cache: KeyValueCache, newest: Tensor, added: Tensor | None) -> Tensor:
        network = self.transformer
        x = network.embed(newest)
        x, rotation, mask = network.locate(x if added is None else x + added, cache.at, cache.mask)
        for layer, block in enumerate(network.blocks):
            x = block(x, AttentionInputs(rotation, mask, cache.extend(layer)))
        logits: Tensor = network.head(network.final_norm(x))[:, 0]
        return logits


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Keep torch from running GELU through oneDNN on a CPU.

    For the one character of a step, oneDNN's set-up takes longer than the function (torch 2.13: 23
    instead of 4 us), a tenth of the step in all. Matrix products in half precision need oneDNN.
    """
    enabled, *_ = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=enabled)
