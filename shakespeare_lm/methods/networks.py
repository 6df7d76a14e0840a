"""config -> network: the one place that decides between the transformer, with a memory or without,
and the bigram table.

Training, completion and the check of a checkpoint all build their network here.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from torch.overrides import TorchFunctionMode

from shakespeare_lm.methods.memory_transformer import MemoryTransformer
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer

Network = CausalTransformer | BigramTable


def build_network(vocab_size: int, config: NetworkConfig, initialise: bool = True) -> Network:
    """Return a new network; without `initialise` its weights are undefined, for loading others."""
    with nullcontext() if initialise else _WithoutInitialisation():
        if config.network == "bigram":
            return BigramTable(vocab_size)
        if config.memory_order:
            return MemoryTransformer(vocab_size, config)
        return CausalTransformer(vocab_size, config)


class _WithoutInitialisation(TorchFunctionMode):
    """Skips the functions of `torch.nn.init`.

    Drawing weights that are about to be replaced takes time, and drawing them on the meta device
    makes torch 2.13 import its compiler, which takes a second.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
