"""Which objectives a training has, in which order, and that their options are checked."""

import pytest
from torch import nn

from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.distillation import NetworkTeacher, NGramTeacher
from shakespeare_lm.methods.multi_token import MultiTokenPrediction
from shakespeare_lm.methods.objectives import ObjectiveConfig, build_objectives
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer


def built(**options: object) -> nn.ModuleDict:
    sizes = NetworkConfig(context_length=4, num_layers=1, num_heads=1, d_model=8)
    return build_objectives(ObjectiveConfig(**options), CausalTransformer(5, sizes))  # type: ignore[arg-type]


def test_a_training_has_none_by_default() -> None:
    assert len(built()) == 0


def test_each_option_adds_its_own() -> None:
    (ngrams,) = built(ngram_distillation=0.25).items()
    assert ngrams[0] == "ngram_teacher"
    assert isinstance(ngrams[1], NGramTeacher)
    assert ngrams[1].share == 0.25
    (teacher,) = built(distillation=0.5, teachers="a, b").items()
    assert teacher[0] == "network_teacher"
    assert isinstance(teacher[1], NetworkTeacher)
    assert (teacher[1].share, teacher[1].teachers, teacher[1].context_length) == (0.5, "a, b", 4)
    (ahead,) = built(characters_ahead=3).items()
    assert ahead[0] == "multi_token"
    assert isinstance(ahead[1], MultiTokenPrediction)
    assert ahead[1].further == 2


def test_shares_come_before_what_is_added() -> None:
    # The teachers' shares are of the loss of the next character.
    every = built(characters_ahead=2, distillation=0.5, teachers="a", ngram_distillation=0.5)
    assert list(every) == ["ngram_teacher", "network_teacher", "multi_token"]


def test_only_what_is_learned_is_in_a_checkpoint() -> None:
    every = built(characters_ahead=2, distillation=0.5, teachers="a", ngram_distillation=0.5)
    assert list(every.state_dict()) == ["multi_token.head.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"characters_ahead": 0}, "characters_ahead is 0: expected a value >= 1"),
        ({"ngram_distillation": 1.0}, "ngram_distillation is 1.0: expected 0 <= ngram_distillat"),
        ({"distillation": 0.5}, "set both or none"),
        ({"teachers": 3}, "teachers is '3': expected str or None"),
    ],
)
def test_the_options_of_all_objectives_are_checked(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObjectiveConfig(**options)


def test_one_that_does_not_fit_the_network_is_refused() -> None:
    with pytest.raises(UserError, match="characters_ahead is 5: expected at most the context_len"):
        built(characters_ahead=5)
