"""Shared by the tests of checkpoints: a small model to save."""

import pytest

from shakespeare_lm.training.module import ShakespeareLM


@pytest.fixture
def module() -> ShakespeareLM:
    sizes = {"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8}
    return ShakespeareLM("\nabc", **sizes, previous_characters=4)
