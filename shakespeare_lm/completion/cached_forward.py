"""The forward pass with a key-value cache: windows are read once, then grow by one character per
step. The logits equal, up to rounding, those of the network for the whole window.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from shakespeare_lm.completion.cache import KeyValueCache, Prefill
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.kernels.int8 import MOST_ROWS
from shakespeare_lm.model.network import Network


class CachedForward:
    """Runs a network that reads a `Past`, in evaluation mode, on windows that grow.

    `compile_step` compiles the step, for caches of fixed shape, when it is first called.
    """

    def __init__(self, network: Network, compile_step: bool = False) -> None:
        self.network = network
        # Says where the network is and in which format; looking for it takes a while.
        self._weight = next(network.parameters())
        self._all_int8 = not any(isinstance(x, nn.Linear) for x in network.modules())
        self._compiled: Callable[[KeyValueCache, Tensor], Tensor] | None = None
        if compile_step:
            # No Python between the kernels on a CPU; on a GPU, a CUDA graph sees to that.
            self._compiled = torch.compile(
                self._advance, fullgraph=True, dynamic=False,
                options={"cpp_wrapper": self.device.type != "cuda"},
            )  # fmt: skip

    @property
    def device(self) -> torch.device:
        return self._weight.device

    def new_cache(self, batch: int, fixed_shape: bool = False) -> KeyValueCache:
        """Return an empty cache for `batch` windows."""
        network = self.network
        cache = KeyValueCache(
            batch, network.config.context_length, network.lookback, network.padding_id,
            self.device, fixed_shape,
        )  # fmt: skip
        if fixed_shape:  # its memory is there before a step is compiled or recorded
            with evaluating(network):
                ids = torch.zeros(batch, dtype=torch.long, device=self.device)
                cache.append(ids)
                self._advance(cache, ids)
            cache.empty()
        return cache

    def prefill(self, cache: KeyValueCache, rows: Tensor, windows: Sequence[Sequence[int]]) -> None:
        """Fill these rows of the cache with these windows; equal windows are computed once."""
        ids = cache.begin(rows, windows)
        if not ids.numel():
            return
        ids, source = ids.unique(dim=0, return_inverse=True)
        recent = nn.functional.pad(ids, (cache.lookback, 0), value=cache.padding_id)
        past = Prefill(cache, rows, source, recent, slice(ids.shape[1]))
        self.network.hidden(self.network.embed(ids, past), past=past)

    def step(self, cache: KeyValueCache, ids: Tensor) -> Tensor:
        """Add one of the ids `[batch]` to each window; return the next logits `[batch, vocab]`."""
        advance = self._compiled if cache.fixed_shape and self._compiled else self._advance
        with _without_onednn() if self._needs_no_onednn(len(ids)) else nullcontext():
            cache.append(ids)
            return advance(cache, ids)

    def _needs_no_onednn(self, texts: int) -> bool:
        """Say whether no product of a step for this many texts goes through oneDNN."""
        if self.device.type != "cpu":
            return False
        return self._weight.dtype == torch.float32 or (self._all_int8 and texts <= MOST_ROWS)

    def _advance(self, cache: KeyValueCache, ids: Tensor) -> Tensor:
        return self.network(ids[:, None], past=cache)[:, 0]


# What the steps that run now, in any thread, found; the setting is the whole process's.
_found: list[bool] = []
_setting = threading.Lock()


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Keep torch from running GELU through oneDNN on a CPU: for one character, its set-up takes
    longer than the function (torch 2.13: 23 instead of 4 us), a tenth of the step in all. Matrix
    products in half precision need oneDNN. Of steps in several threads, the last to end restores
    the setting.
    """
    with _setting:
        _found.append(torch.backends.mkldnn.set_flags(_enabled=False)[0])
    try:
        yield
    finally:
        with _setting:
            torch.backends.mkldnn.set_flags(_enabled=_found.pop())
