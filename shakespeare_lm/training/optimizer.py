"""The optimizer: its options, and which parameters it updates how."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from shakespeare_lm.errors import (
    UserError,
    check_at_least,
    check_fraction,
    check_positive,
    check_types,
)
from shakespeare_lm.methods.muon import Muon, MuonAndAdamW

OptimizerName = Literal["muon", "adamw", "sgd"]
Schedule = Literal["cosine", "linear", "constant"]


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
        steps = {"decay_steps": self.decay_steps, "restart_step": self.restart_step}
        check_at_least(1, **{name: step for name, step in steps.items() if step is not None})

    def total_steps(self, max_steps: int) -> int:
        """Return the step at which the schedule ends, for a Trainer with this `max_steps`; to need
        an end and have none is a `UserError`.
        """
        total_steps = self.decay_steps or max_steps
        if total_steps < 1 and self.schedule != "constant":
            raise UserError(
                f"schedule is {self.schedule}, which needs a last step: set --max_steps or "
                "--model.decay_steps, or use --model.schedule constant"
            )
        return int(total_steps)


def check_optimizer_state(optimizer: Optimizer) -> None:
    """Raise a `UserError` if a restored moment has another shape than its parameter: torch's fused
    kernels would crash.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise UserError(f"invalid {name} in the optimizer's state in the checkpoint")
            if name != "step" and value.shape != parameter.shape:
                raise UserError(
                    f"the state of the optimizer in the checkpoint has {name} of shape "
                    f"{tuple(value.shape)} for weights of shape {tuple(parameter.shape)}: start a "
                    "new run with --init_from"
                )


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig, blocks: nn.Module | None
) -> Optimizer:
    """Return an optimizer of these parameters, each in exactly one group; muon, for the matrices in
    `blocks`, is refused without them.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (0.9, config.beta2)
    # Smaller matrices make a simpler function; smaller biases and gains do not.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.learning_rate, betas=betas)
    inside = set() if blocks is None else {p for p in blocks.parameters() if p.ndim == 2}
    if not inside:
        raise UserError("optimizer is muon, which needs a transformer: use adamw for this network")
    matrices = [p for p in trained if p in inside]
    others = [p for p in trained if p not in inside]
    return MuonAndAdamW(
        AdamW(others, lr=config.learning_rate, betas=betas, weight_decay=0.0, fused=True),
        Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay),
    )
