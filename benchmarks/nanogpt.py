"""The baseline: nanoGPT's network and its settings for Shakespeare, character by character.

Enters: ids. Leaves: steps of training as its script takes them, and a loss. Written from the
description of github.com/karpathy/nanoGPT (its model, config/train_shakespeare_char.py and, for the
laptop, the options in its read-me).
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    loss_every_n_steps: int  # how often the loop waits for the loss, to print it


SHAPES = {
    "laptop": Shape(4, 4, 128, 64, 12, 0.0, 2000, torch.float32, 1),
    "gpu": Shape(6, 6, 384, 256, 64, 0.2, 5000, torch.bfloat16, 10),
}


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d_model = shape.d_model
        self.num_heads, self.dropout = shape.num_heads, shape.dropout
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=False)
        self.attention_output = nn.Linear(d_model, d_model, bias=False)
        self.feed_forward_norm = nn.LayerNorm(d_model, bias=False)
        self.outwards = nn.Linear(d_model, 4 * d_model, bias=False)
        self.back = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attention_output(self._attend(self.attention_norm(x)))
        x = x + F.dropout(mixed, self.dropout, self.training)
        thought = self.back(F.gelu(self.outwards(self.feed_forward_norm(x))))
        return x + F.dropout(thought, self.dropout, self.training)

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)


class NanoGPT(nn.Module):
    """Learned positions, pre-norm blocks without biases, GELU, and a head tied to the embedding."""

    def __init__(self, vocab_size: int, shape: Shape) -> None:
        super().__init__()
        self.dropout = shape.dropout
        self.embedding = nn.Embedding(vocab_size, shape.d_model)
        self.positions = nn.Embedding(shape.context_length, shape.d_model)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.num_layers))
        self.final_norm = nn.LayerNorm(shape.d_model, bias=False)
        self.head = nn.Linear(shape.d_model, vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        adding = 0.02 / math.sqrt(2 * shape.num_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                adds_up = name.endswith(("attention_output.weight", "back.weight"))
                nn.init.normal_(parameter, std=adding if adds_up else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, time]` to logits `[batch, time, vocab]`."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.embedding(ids) + self.positions(places)
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.final_norm(x))
        return logits

    def num_parameters(self) -> int:
        """Count as nanoGPT does: without the positions."""
        return sum(p.numel() for p in self.parameters()) - self.positions.weight.numel()


class NanoGPTLoop:
    """Trains it as nanoGPT's script does, without the evaluations in between."""

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
        self.network = NanoGPT(vocab_size, shape).to(device)
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

    def batch(self) -> tuple[Tensor, Tensor]:
        """Cut windows at random places out of the text, one at a time."""
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
    """Return nats per character of a whole text, cut into blocks beside each other."""
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
