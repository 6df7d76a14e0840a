"""loss -> better weights: parameter groups, the optimizer, and the learning rate of each step.

Enters: a network. Leaves: an optimizer whose groups name every parameter once, and a factor per
step.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import has_fast_bfloat16

OptimizerName = Literal["muon", "adamw", "sgd"]
Schedule = Literal["cosine", "linear", "constant"]

# Jordan 2024, "Muon": the quintic whose slope at zero is steepest.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


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
    """Momentum whose every update is orthogonalised (Jordan 2024); for matrices.

    Each step is that of `torch.optim.Muon`, except that all matrices of one shape go through the
    iteration together: for small models that takes half the time.
    """

    def __init__(
        self, params: ParamsT, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
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

    One object with one state is what clipping, accumulation, schedules, precision and checkpoints
    of the Lightning Trainer work on without knowing of it.
    """

    def __init__(self, adamw: AdamW, muon: Muon) -> None:
        self.adamw, self.muon = adamw, muon
        super().__init__([*adamw.param_groups, *muon.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the two work on this object's groups and state."""
        count = len(self.adamw.param_groups)
        self.adamw.param_groups = self.param_groups[:count]
        self.muon.param_groups = self.param_groups[count:]
        self.adamw.state = self.muon.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # `load_state_dict` ends here, with new groups and a new state.
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient; Lightning's closure computes the gradients."""
        loss = closure() if closure is not None else None
        self.adamw.step()
        self.muon.step()
        return loss


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Return two groups: matrices, which decay, and biases and norms, which do not.

    A matrix multiplies, so making it smaller makes the function simpler; for a bias or a gain of
    one that argument does not hold.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizer(
    name: OptimizerName,
    network: nn.Module,
    learning_rate: float,
    weight_decay: float,
    beta2: float,
    muon_learning_rate: float,
) -> Optimizer:
    """Return the optimizer of all of a network's parameters, each in one group.

    Args:
        name: "muon" for the matrices inside `network.blocks`, with AdamW for everything else,
            which then does not decay; "adamw" for all (Loshchilov & Hutter 2019); or "sgd", plain
            gradient descent without momentum.
        network: a transformer, or anything with parameters if `name` is not "muon".
        learning_rate: of AdamW and of gradient descent.
        weight_decay: of matrices.
        beta2: AdamW's decay of the squared gradients.
        muon_learning_rate: of Muon.
    """
    if name == "sgd":
        return SGD(parameter_groups(network.parameters(), weight_decay), lr=learning_rate)
    if name == "adamw":
        groups = parameter_groups(network.parameters(), weight_decay)
        return AdamW(groups, lr=learning_rate, betas=(0.9, beta2))
    blocks = getattr(network, "blocks", nn.ModuleList())
    matrices = [p for p in blocks.parameters() if p.ndim == 2]
    inside = set(matrices)
    others = [p for p in network.parameters() if p not in inside]
    if not matrices:
        raise UserError("optimizer is muon, which is for transformers: use adamw for the bigram")
    return MuonAndAdamW(
        AdamW(others, lr=learning_rate, betas=(0.9, beta2), weight_decay=0.0, fused=True),
        Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay),
    )


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
