"""Checkpoints of small random models, for the tests of exports."""

from pathlib import Path
from typing import Any

from shakespeare_lm.checkpoint.reading import Checkpoint
from shakespeare_lm.model.network import Network
from tests.checkpoint import conftest

VOCABULARY = "\n '.:ORabcdeé😀"
SIZES: dict[str, Any] = {"context_length": 24, "num_layers": 2, "num_heads": 2, "d_model": 16}


def random_checkpoint(
    folder: Path, vocabulary: str = VOCABULARY, std: float = 0.3, **options: Any
) -> Checkpoint:
    return conftest.random_checkpoint(folder / "best.ckpt", vocabulary, std, **{**SIZES, **options})


def network_of(checkpoint: Checkpoint) -> Network:
    return checkpoint.network().eval()
