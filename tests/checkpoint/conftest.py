"""Shared by the tests of checkpoints: a small model to save."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

SIZES: dict[str, Any] = {"context_length": 8, "num_layers": 1, "num_heads": 2, "d_model": 8}


@pytest.fixture
def module() -> ShakespeareLM:
    return ShakespeareLM("\nabc", **SIZES, previous_characters=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.ckpt"


def random_checkpoint(
    path: Path, vocabulary: str = "\nab", std: float = 1.0, **options: Any
) -> Checkpoint:
    """Save and read a model with random weights, and a memory of some text if it has one."""
    torch.manual_seed(0)
    module = ShakespeareLM(vocabulary, **{**SIZES, **options})
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    if options.get("memory_order"):
        ids = (torch.rand(400) ** 2 * len(vocabulary)).long()  # some n-grams occur often
        lengths = torch.tensor([150, 0, 250])
        module.network.ngrams.remember(ids, lengths)  # type: ignore[union-attr,operator]
    return read_checkpoint(save(path, module))
