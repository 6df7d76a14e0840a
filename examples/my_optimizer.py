"""An optimizer of your own: Lion (Chen et al. 2023) moves each weight by the same amount.

    python scripts/fit.py --model.optimizer examples.my_optimizer.Lion --model.learning_rate 5e-4

It gets named groups of parameters, each with its weight decay, and the learning rate. Any class of
torch does as well: `--model.optimizer torch.optim.NAdam`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """The sign of a momentum; `betas` are those of the update and of the momentum."""

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter with a gradient; Lightning's closure computes the gradients."""
        loss = closure() if closure is not None else None
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, weight: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        direction = momentum.lerp(grad, 1 - group["betas"][0]).sign()
        weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
        momentum.lerp_(grad, 1 - group["betas"][1])
