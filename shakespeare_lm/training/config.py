"""The options of training, and with those of the network, all options of a model."""

from dataclasses import dataclass

from shakespeare_lm.methods.distillation import DistillationConfig
from shakespeare_lm.methods.multi_token import CharactersAheadConfig
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(OptimizerConfig, DistillationConfig, CharactersAheadConfig):
    """How a network is trained."""

    def __post_init__(self) -> None:
        OptimizerConfig.__post_init__(self)
        DistillationConfig.__post_init__(self)
        CharactersAheadConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(TrainingConfig, NetworkConfig):
    """A network, and how it is trained."""

    def __post_init__(self) -> None:
        NetworkConfig.__post_init__(self)
        TrainingConfig.__post_init__(self)
