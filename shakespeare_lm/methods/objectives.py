"""options -> objectives: all that a training has, in the order in which they change the loss."""

from dataclasses import dataclass

from torch import nn

from shakespeare_lm.methods.distillation import DistillationConfig, NetworkTeacher, NGramTeacher
from shakespeare_lm.methods.multi_token import MultiTokenConfig, MultiTokenPrediction
from shakespeare_lm.methods.objective import Objective
from shakespeare_lm.model.network import Network


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(DistillationConfig, MultiTokenConfig):
    """The options of all objectives."""

    def __post_init__(self) -> None:
        DistillationConfig.__post_init__(self)
        MultiTokenConfig.__post_init__(self)


def build_objectives(config: ObjectiveConfig, network: Network) -> nn.ModuleDict:
    """Return the objectives by name, which checkpoints hold their parameters by.

    Raises:
        UserError: if one does not fit the network.
    """
    found: dict[str, Objective] = {}
    if config.ngram_distillation:
        found["ngram_teacher"] = NGramTeacher(config.ngram_distillation)
    if config.teachers:
        length = network.config.context_length
        found["network_teacher"] = NetworkTeacher(config.distillation, config.teachers, length)
    if config.characters_ahead > 1:
        found["multi_token"] = MultiTokenPrediction(network, config.characters_ahead)
    return nn.ModuleDict(found)
