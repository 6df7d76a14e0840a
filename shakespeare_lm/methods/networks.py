"""options -> network: the registry, from which training, completion and the check of a checkpoint
all build their network, and which code of users' own it may import.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, ClassVar

from torch.overrides import TorchFunctionMode

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.memory_network import MemoryConfig, MemoryNetwork
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.network import Network
from shakespeare_lm.model.transformer import CausalTransformer

NETWORKS: dict[str, type[Network]] = {"transformer": CausalTransformer, "bigram": BigramTable}
# Import paths of the networks whose code may run, separated by commas.
TRUST_VARIABLE = "SHAKESPEARE_LM_NETWORKS"


class UntrustedNetworkError(UserError):
    """A network whose code this process was not allowed to import."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(NetworkConfig, MemoryConfig):
    """All options that a network's weights and function depend on."""

    ADDED: ClassVar[dict[str, Any]] = {**NetworkConfig.ADDED, **MemoryConfig.ADDED}

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        MemoryConfig.__post_init__(self)
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
    """Return a new network, or raise as `network_class` does; without `initialise` its weights are
    undefined, for loading others.
    """
    with nullcontext() if initialise else _WithoutInitialisation():
        network = network_class(config.network)(vocab_size, config)
        if not config.memory_order:
            return network
        return MemoryNetwork(network, config.memory_order, config.memory_share)


def network_class(name: str) -> type[Network]:
    """Return the class in the registry of this name, or with this import path, `module.Class`.

    Importing runs code, and the name can come from a checkpoint that somebody else wrote: `trust`
    or the environment variable must allow it.

    Raises:
        UserError: if it does not exist, is not trusted, or is not a subclass of `Network`.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    short, parts = name[:80], name.split(".")
    if len(parts) < 2 or not all(map(str.isidentifier, parts)):
        raise UserError(
            f"network is {short!r}: choose from: {', '.join(NETWORKS)}, or give the import path of "
            "your own class, such as my_module.MyNetwork"
        )
    if name not in os.environ.get(TRUST_VARIABLE, "").split(","):
        raise UntrustedNetworkError(
            f"network is {short!r}, which is not part of shakespeare_lm: if you trust that code, "
            f"set {TRUST_VARIABLE}={short}"
        )
    NETWORKS[name] = _imported(name)
    return NETWORKS[name]


def trust(name: str) -> None:
    """Allow this process, and those that it starts, to import the network of this name."""
    if "." in name:
        names = os.environ.get(TRUST_VARIABLE, "")
        os.environ[TRUST_VARIABLE] = f"{names},{name}" if names else name


def _imported(name: str) -> type[Network]:
    module_name, _, class_name = name.rpartition(".")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where the user's own file is, as for `python -c`
    try:
        found = getattr(import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"network is {name!r}: there is no module {error.name}") from None
        raise
    except AttributeError:
        raise UserError(f"network is {name!r}: {module_name} has no {class_name}") from None
    if not (isinstance(found, type) and issubclass(found, Network)):
        raise UserError(
            f"network is {name!r}: expected a subclass of shakespeare_lm.model.network.Network"
        )
    return found


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
