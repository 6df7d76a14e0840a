"""loss -> better weights: parameter groups, the optimizer, and the learning rate of each step.

Enters: a network. Leaves: an optimizer whose groups name every parameter once, and a factor per
step.
"""

import math
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

OptimizerName = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "linear", "constant"]


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return two groups: matrices, which decay, and biases and norms, which do not.

    A matrix multiplies, so making it smaller makes the function simpler; for a bias or a gain of
    one that argument does not hold. Shared parameters appear once.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizer(
    name: OptimizerName,
    network: nn.Module,
    learning_rate: float,
    weight_decay: float,
    beta2: float,
) -> Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019) or plain gradient descent without momentum.

    `beta2` is AdamW's decay of the squared gradients; SGD has none.
    """
    groups = parameter_groups(network, weight_decay)
    if name == "sgd":
        return SGD(groups, lr=learning_rate)
    return AdamW(groups, lr=learning_rate, betas=(0.9, beta2))


def learning_rate_factor(
    step: int, schedule: Schedule, warmup_steps: int, total_steps: int
) -> float:
    """Return what the learning rate is multiplied with at `step` (0 is the first).

    It grows linearly over the first `warmup_steps`, and reaches 1 at their end; from there "cosine"
    and "linear" fall to 0 at `total_steps`, and "constant" stays.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
