"""The options of a network, and the values that are refused."""

from dataclasses import FrozenInstanceError, asdict

import pytest

from shakespeare_lm.errors import UserError
from shakespeare_lm.model.bigram import BigramTable
from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 10, "num_heads": 3}, "d_model is 10 and num_heads is 3: d_model must be a mu"),
        ({"d_model": 0, "num_heads": 1}, "d_model is 0: expected a value >= 1"),
        ({"num_heads": 0}, "num_heads is 0: expected a value >= 1"),
        ({"num_layers": 0}, "num_layers is 0: expected a value >= 1"),
        ({"context_length": 0}, "context_length is 0: expected a value >= 1"),
        ({"context_length": 65_537}, "context_length is 65537: expected at most 65536"),
        ({"previous_characters": 1025}, "previous_characters is 1025: expected at most 1024"),
        ({"d_feedforward": 0}, "d_feedforward is 0: expected a value >= 1"),
        ({"previous_characters": -1}, "previous_characters is -1: expected a value >= 0"),
        ({"dropout": 1.0}, "dropout is 1.0: expected 0 <= dropout < 1"),
        ({"attention_dropout": 2.0}, "attention_dropout is 2.0: expected 0 <= attention_dropout"),
        ({"network": 3}, "network is '3': expected str"),
        ({"positions": "alibi"}, "positions is 'alibi': choose from: sinusoidal, learned, rotary"),
        ({"norm": None}, "norm is 'None': choose from: pre, post"),
        ({"activation": "tanh"}, "activation is 'tanh': choose from: gelu, relu"),
        ({"d_feedforward": "64"}, "d_feedforward is '64': expected int or None"),
        ({"bias": 1}, "bias is '1': expected bool"),
    ],
)
def test_values_of_another_type_or_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        NetworkConfig(**options)


def test_plain_values_rebuild_a_config_which_cannot_change_after_its_checks() -> None:
    config = NetworkConfig(num_layers=1, positions="rotary", d_feedforward=7, dropout=0)
    assert NetworkConfig(**asdict(config)) == config
    assert config.feedforward_width == 7
    with pytest.raises(FrozenInstanceError):
        config.num_layers = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"previous_characters": 4},
        {"tied_head": True, "previous_characters": 4},
        {"positions": "learned", "d_feedforward": 24},
        {"network": "bigram"},
    ],
)
def test_the_number_of_matrix_weights_is_that_of_the_network(options: dict) -> None:
    config = NetworkConfig(num_layers=2, num_heads=2, d_model=8, **options)
    kind = BigramTable if config.network == "bigram" else CausalTransformer
    matrices = [p for p in kind(11, config).parameters() if p.ndim > 1]
    assert config.num_matrix_weights(11) == sum(p.numel() for p in matrices)
