"""Muon (Jordan 2024), for matrices, and AdamW, for everything else, as one optimizer."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from shakespeare_lm.kernels.newton_schulz import orthogonalise


class Muon(Optimizer):
    """Nesterov momentum with orthogonalised updates (Jordan 2024).

    Each step equals that of `torch.optim.Muon`, but all matrices of one shape go through the
    iteration together, which takes half the time for small models.
    """

    def __init__(
        self, params: ParamsT, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for parameters in shapes.values():
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                rows, columns = parameters[0].shape
                length = -group["lr"] * math.sqrt(max(1.0, rows / columns))
                directions = self._directions(parameters, group["momentum"])
                torch._foreach_add_(parameters, directions, alpha=length)

    def _directions(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Return the orthogonalised momentum of parameters of one shape."""
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        velocities = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(velocities, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, velocities, momentum)
        return list(orthogonalise(torch.stack(ahead)).to(parameters[0].dtype).unbind())


class MuonAndAdamW(Optimizer):
    """Muon for some groups and AdamW for the others.

    With one object and one state, the Lightning Trainer's clipping, accumulation, schedules,
    precision and checkpoints work as for any other optimizer.
    """

    def __init__(self, adamw: AdamW, muon: Muon) -> None:
        self.adamw, self.muon = adamw, muon
        super().__init__([*adamw.param_groups, *muon.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Make both use the groups and the state of this object."""
        count = len(self.adamw.param_groups)
        self.adamw.param_groups = self.param_groups[:count]
        self.muon.param_groups = self.param_groups[count:]
        self.adamw.state = self.muon.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # `load_state_dict` ends here, with new groups and a new state.
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter with a gradient; Lightning's closure computes the gradients."""
        loss = closure() if closure is not None else None
        self.adamw.step()
        self.muon.step()
        return loss
