"""options -> the objectives of a run, in the order in which they change the loss."""

from dataclasses import dataclass

from torch import nn

from shakespeare_lm.methods.distillation import DistillationConfig, NetworkTeacher, NGramTeacher
from shakespeare_lm.methods.multi_token import MultiTokenConfig, MultiTokenPrediction
from shakespeare_lm.methods.objective import Objective
from shakespeare_lm.model.network import Network


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(DistillationConfig, MultiTokenConfig):
    """How the loss differs from the cross-entropy of the next character."""

    def __post_init__(self) -> None:
        DistillationConfig.__post_init__(self)
        MultiTokenConfig.__post_init__(self)


def build_objectives(config: ObjectiveConfig, network: Network) -> nn.ModuleDict:
    """Return the objectives by the names that their parameters have in checkpoints; one that does
    not fit the network is a `UserError`.
    """
    objectives: dict[str, Objective] = {}
    if config.ngram_distillation:
        objectives["ngram_teacher"] = NGramTeacher(config.ngram_distillation)
    if config.teachers:
        length = network.config.context_length
        objectives["network_teacher"] = NetworkTeacher(config.distillation, config.teachers, length)
    if config.characters_ahead > 1:
        objectives["multi_token"] = MultiTokenPrediction(network, config.characters_ahead)
    return nn.ModuleDict(objectives)
