"""All options of a model: each belongs to one class, and each class checks its own."""

from dataclasses import fields

import pytest

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import DistillationConfig
from shakespeare_lm.methods.multi_token import CharactersAheadConfig
from shakespeare_lm.model.config import NETWORK_OPTIONS
from shakespeare_lm.training.config import ModelConfig, TrainingConfig
from shakespeare_lm.training.optimizer import OptimizerConfig


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("d_model", 0, "d_model is 0: expected"),
        ("beta2", 1.0, "beta2 is 1.0: expected 0 <= beta2 < 1"),
        ("ngram_distillation", 1.0, "ngram_distillation is 1.0: expected 0 <= ngram_dist"),
        ("characters_ahead", 0, "characters_ahead is 0: expected a value >= 1"),
        ("ngram_distillation", "half", "ngram_distillation is 'half': expected float"),
    ],
)
def test_the_options_of_all_classes_are_checked(option: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**{option: value})  # type: ignore[arg-type]


def test_no_option_is_in_two_classes() -> None:
    kinds = (OptimizerConfig, DistillationConfig, CharactersAheadConfig)
    of_training = [field.name for kind in kinds for field in fields(kind)]
    assert sorted(of_training) == sorted(field.name for field in fields(TrainingConfig))
    both = [*of_training, *NETWORK_OPTIONS]
    assert sorted(both) == sorted({field.name for field in fields(ModelConfig)})
