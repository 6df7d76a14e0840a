"""gradients -> weights: the options of the optimizer, parameter groups, and Muon.

Enters: a network. Leaves: an optimizer that has every parameter in exactly one group.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from shakespeare_lm.errors import (
    UserError,
    check_at_least,
    check_fraction,
    check_positive,
    check_types,
)
from shakespeare_lm.hardware import has_fast_bfloat16

OptimizerName = Literal["muon", "adamw", "sgd"]
Schedule = Literal["cosine", "linear", "constant"]

# Jordan 2024, "Muon": coefficients of the quintic with the steepest slope at zero.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights are updated.

    Args:
        optimizer: muon (for the matrices in the blocks, with adamw for everything else), adamw
            (Loshchilov & Hutter 2019), or sgd (plain gradient descent without momentum).
        learning_rate: the highest learning rate of adamw and sgd.
        muon_learning_rate: the highest learning rate of muon.
        weight_decay: of matrices (with muon, of those in the blocks); biases and norms have none.
        beta2: AdamW's decay rate of the squared gradients.
        schedule: learning-rate schedule after the warm-up: cosine or linear to zero, or constant.
        warmup_steps: steps over which the learning rate rises from zero.
        decay_steps: the step at which cosine and linear reach zero; the Trainer's max_steps by
            default.
        restart_step: a step at which the schedule has reached zero and begins anew, at half of the
            highest rate; --more_steps sets it.

    Raises:
        UserError: if a value has the wrong type or is out of range.
    """

    optimizer: OptimizerName = "muon"
    learning_rate: float = 8e-3
    muon_learning_rate: float = 0.04
    weight_decay: float = 0.0
    beta2: float = 0.99
    schedule: Schedule = "linear"
    warmup_steps: int = 0
    decay_steps: int | None = None
    restart_step: int | None = None

    def __post_init__(self) -> None:
        check_types(self, OptimizerConfig)
        check_positive(learning_rate=self.learning_rate, muon_learning_rate=self.muon_learning_rate)
        check_at_least(0, weight_decay=self.weight_decay, warmup_steps=self.warmup_steps)
        check_fraction(beta2=self.beta2)
        if self.decay_steps is not None:
            check_at_least(1, decay_steps=self.decay_steps)
        if self.restart_step is not None:
            check_at_least(1, restart_step=self.restart_step)

    def total_steps(self, max_steps: int) -> int:
        """Return the step at which the schedule ends, for a Trainer with this `max_steps`.

        Raises:
            UserError: if the schedule needs an end and there is none.
        """
        total_steps = self.decay_steps or max_steps
        if total_steps < 1 and self.schedule != "constant":
            raise UserError(
                f"schedule is {self.schedule}, which needs a last step: set --max_steps or "
                "--model.decay_steps, or use --model.schedule constant"
            )
        return int(total_steps)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices `[count, rows, columns]` with all singular values near 1 (0.7 to 1.2).

    Five steps of a Newton-Schulz iteration (Jordan 2024, "Muon: an optimizer for hidden layers in
    neural networks"), in bfloat16 where that is fast: a direction need not be exact.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x.bfloat16() if has_fast_bfloat16(x.device.type) else x.float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum with orthogonalised updates (Jordan 2024), for matrices.

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
        """Return the orthogonalised momentum (Nesterov's) of parameters of one shape."""
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        velocities = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(velocities, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, velocities, momentum)
        return list(orthogonalise(torch.stack(ahead)).to(parameters[0].dtype).unbind())


class MuonAndAdamW(Optimizer):
    """Muon for some groups and AdamW for the others, as one optimizer.

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


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Return two groups: matrices, with weight decay, and biases and norms, without.

    Smaller matrices make a simpler function; for a bias, or a gain around one, that argument does
    not hold.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, further_head: nn.Module | None = None
) -> Optimizer:
    """Return an optimizer of all parameters of a network, and of a further head that only training
    knows, each in exactly one group.

    Raises:
        UserError: if Muon is asked for and the network has no blocks.
    """
    parameters = [*network.parameters(), *(further_head.parameters() if further_head else ())]
    groups = parameter_groups(parameters, config.weight_decay)
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2))
    blocks = getattr(network, "blocks", nn.ModuleList())
    matrices = [p for p in blocks.parameters() if p.ndim == 2]
    inside = set(matrices)
    others = [p for p in parameters if p not in inside]
    if not matrices:
        raise UserError("optimizer is muon, which needs a transformer: use adamw for the bigram")
    betas = (0.9, config.beta2)
    return MuonAndAdamW(
        AdamW(others, lr=config.learning_rate, betas=betas, weight_decay=0.0, fused=True),
        Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay),
    )
