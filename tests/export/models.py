"""Checkpoints of small random models, for the tests of exports."""

from pathlib import Path
from typing import Any

import torch

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.methods.networks import build_network
from shakespeare_lm.model.network import Network
from shakespeare_lm.training.module import ShakespeareLM
from tests.conftest import save

VOCABULARY = "\n '.:ORabcdeé😀"
SIZES: dict[str, Any] = {"context_length": 24, "num_layers": 2, "num_heads": 2, "d_model": 16}


def random_checkpoint(
    folder: Path, vocabulary: str = VOCABULARY, std: float = 0.3, **options: Any
) -> Checkpoint:
    torch.manual_seed(0)
    module = ShakespeareLM(vocabulary, **{**SIZES, **options})
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return read_checkpoint(save(folder / "best.ckpt", module))


def network_of(checkpoint: Checkpoint) -> Network:
    network = build_network(checkpoint.tokenizer.vocab_size, checkpoint.config)
    network.load_state_dict(checkpoint.weights)
    return network.eval()
