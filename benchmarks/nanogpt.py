"""The baseline: nanoGPT's network and its settings for Shakespeare, character by character.

Enters: ids. Leaves: training steps as in its script, and a loss. Written from the description of
github.com/karpathy/nanoGPT (its model, config/train_shakespeare_char.py and, for the laptop, the
options in its README).
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shakespeare_lm.model.config import NetworkConfig
from shakespeare_lm.model.transformer import CausalTransformer

LEARNING_RATE, LOWEST_LEARNING_RATE, WARMUP_STEPS = 1e-3, 1e-4, 100
WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.99), 1.0


class Shape(NamedTuple):
    """One of nanoGPT's two ways to train on Shakespeare's characters."""

    num_layers: int
    num_heads: int
    d_model: int
    context_length: int
    batch_size: int
    dropout: float
    max_steps: int
    dtype: torch.dtype
    loss_every_n_steps: int  # how often its loop reads the loss, to print it


SHAPES = {
    "laptop": Shape(4, 4, 128, 64, 12, 0.0, 2000, torch.float32, 1),
    "gpu": Shape(6, 6, 384, 256, 64, 0.2, 5000, torch.bfloat16, 10),
}


def nanogpt_config(shape: Shape) -> NetworkConfig:
    """Return nanoGPT's architecture as options of our transformer, which computes the same."""
    return NetworkConfig(
        context_length=shape.context_length,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        d_model=shape.d_model,
        positions="learned",
        tied_head=True,
        scale_embedding=False,
        previous_characters=0,
        zero_init=False,
        dropout=shape.dropout,
        attention_dropout=shape.dropout,
    )


class NanoGPTLoop:
    """Trains like nanoGPT's script, without the evaluations in between."""

    def __init__(
        self,
        ids: Tensor,
        vocab_size: int,
        shape: Shape,
        device: torch.device,
        compile_network: bool = False,
    ) -> None:
        self.shape, self.device = shape, device
        self.text = ids.numpy().astype(np.uint16)
        self.network = CausalTransformer(vocab_size, nanogpt_config(shape)).to(device)
        if compile_network:
            self.network.compile()
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.network.parameters() if p.ndim >= 2]},
            {"params": [p for p in self.network.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, LEARNING_RATE, BETAS, weight_decay=WEIGHT_DECAY, fused=device.type == "cuda"
        )
        self.steps = 0
        self.dtype = shape.dtype
        self.characters_per_step = shape.batch_size * shape.context_length

    def batch(self) -> tuple[Tensor, Tensor]:
        """Cut windows at random positions, one at a time."""
        time = self.shape.context_length
        starts = torch.randint(len(self.text) - time, (self.shape.batch_size,)).tolist()
        inputs = torch.stack([self._window(start) for start in starts])
        targets = torch.stack([self._window(start + 1) for start in starts])
        if self.device.type == "cuda":
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return (
            inputs.to(self.device, non_blocking=True),
            targets.to(self.device, non_blocking=True),
        )

    def _window(self, start: int) -> Tensor:
        window = self.text[start : start + self.shape.context_length]
        return torch.from_numpy(window.astype(np.int64))

    def step(self) -> None:
        """Fetch a batch and train on it."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.steps, self.shape.max_steps)
        inputs, targets = self.batch()
        half = self.shape.dtype != torch.float32
        with torch.autocast(self.device.type, self.shape.dtype, enabled=half):
            loss = F.cross_entropy(self.network(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.steps % self.shape.loss_every_n_steps == 0:
            loss.item()
        self.steps += 1


def learning_rate(step: int, max_steps: int) -> float:
    """Return nanoGPT's: a linear warm-up, then a cosine down to a tenth."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / (WARMUP_STEPS + 1)
    progress = (step - WARMUP_STEPS) / (max_steps - WARMUP_STEPS)
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return LOWEST_LEARNING_RATE + share * (LEARNING_RATE - LOWEST_LEARNING_RATE)


@torch.no_grad()
def mean_loss(network: nn.Module, ids: Tensor, context_length: int) -> float:
    """Return nats per character of a whole text, cut into consecutive blocks."""
    network.eval()
    nats = 0.0
    whole = (len(ids) - 1) // context_length * context_length
    blocks = [*ids[:whole].view(-1, context_length).split(64), ids[whole:-1][None]]
    targets = [*ids[1 : whole + 1].view(-1, context_length).split(64), ids[whole + 1 :][None]]
    for block, target in zip(blocks, targets, strict=True):
        if block.numel():
            logits = network(block.long())
            nats += F.cross_entropy(
                logits.flatten(0, 1), target.long().flatten(), reduction="sum"
            ).item()
    network.train()
    return nats / (len(ids) - 1)
