"""options -> the objectives of a run, in the order in which they change the loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from shakespeare_lm.errors import UserError, check_types, one_line
from shakespeare_lm.methods.distillation import DistillationConfig, NetworkTeacher, NGramTeacher
from shakespeare_lm.methods.import_path import check_name, import_class
from shakespeare_lm.methods.multi_token import MultiTokenConfig, MultiTokenPrediction
from shakespeare_lm.methods.objective import Objective
from shakespeare_lm.model.network import Network


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(DistillationConfig, MultiTokenConfig):
    """How the loss differs from the cross-entropy of the next character.

    Args:
        objective: import paths of classes of your own that change the loss, separated by commas,
            such as my_module.MyObjective (see `Objective`); made without arguments.

    Raises:
        UserError: if a value has the wrong type or is out of range.
    """

    objective: str = ""

    ADDED: ClassVar[dict[str, Any]] = {**MultiTokenConfig.ADDED, "objective": ""}

    def __post_init__(self) -> None:
        check_types(self, ObjectiveConfig)
        DistillationConfig.__post_init__(self)
        MultiTokenConfig.__post_init__(self)
        for path in self.own_objectives:
            check_name("objective", path)

    @property
    def own_objectives(self) -> list[str]:
        return [path.strip() for path in self.objective.split(",")] if self.objective else []


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
    for path in config.own_objectives:
        kind = import_class("objective", path, Objective)
        if kind.__name__ in objectives:
            raise UserError(f"objective is {config.objective!r}: two are called {kind.__name__}")
        try:
            objectives[kind.__name__] = kind()
        except TypeError as error:
            raise UserError(f"objective is {path!r}: {one_line(error)}") from error
    return nn.ModuleDict(objectives)
