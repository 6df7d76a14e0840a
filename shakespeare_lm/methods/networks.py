"""options -> network: the registry, from which training, completion and the check of a checkpoint
all build their network.
"""

from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch.overrides import TorchFunctionMode

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.import_path import check_name, import_class
from shakespeare_lm.methods.memory_network import MemoryConfig, MemoryNetwork
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network
from shakespeare_lm.model.transformer import CausalTransformer

NETWORKS: dict[str, type[Network]] = {"transformer": CausalTransformer, "bigram": BigramTable}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(NetworkConfig, MemoryConfig):
    """All options that a network's weights and function depend on."""

    ADDED: ClassVar[dict[str, Any]] = {**NetworkConfig.ADDED, **MemoryConfig.ADDED}

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        MemoryConfig.__post_init__(self)
        check_name("network", self.network, NETWORKS)
        if self.memory_order and self.network == "bigram":
            raise UserError(
                f"memory_order is {self.memory_order} and network is bigram, which cannot have a "
                "memory: set memory_order 0, or network transformer"
            )

    def num_matrix_weights(self, vocab_size: int) -> int:
        features = 0 if self.memory_share else self.memory_order * (vocab_size + 1)
        return super().num_matrix_weights(vocab_size) + features * self.d_model


NETWORK_OPTIONS = tuple(field.name for field in fields(NetworkOptions))


def build_network(vocab_size: int, config: NetworkOptions, initialise: bool = True) -> Network:
    """Return a new network, or raise as `import_class` does; without `initialise` its weights are
    undefined, for loading others.
    """
    with nullcontext() if initialise else _WithoutInitialisation():
        kind = NETWORKS.get(config.network) or import_class("network", config.network, Network)
        network = kind(vocab_size, config)
        if not config.memory_order:
            return network
        return MemoryNetwork(network, config.memory_order, config.memory_share)


class _WithoutInitialisation(TorchFunctionMode):
    """Skips the functions of `torch.nn.init`: drawing weights that are about to be replaced takes
    time, and on the meta device makes torch 2.13 import its compiler, which takes a second.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
