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
    one_line,
)
from shakespeare_lm.methods.import_path import check_name, import_own
from shakespeare_lm.methods.muon import Muon, MuonAndAdamW

OPTIMIZERS = ("muon", "adamw", "sgd")
Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights are updated.

    Args:
        optimizer: muon (for the matrices in the blocks, with adamw for everything else), adamw
            (Loshchilov & Hutter 2019), sgd (plain gradient descent without momentum), or the
            import path of your own, such as my_module.MyOptimizer, called with named parameter
            groups and lr (see examples/my_optimizer.py).
        learning_rate: the highest learning rate of adamw, sgd and your own.
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

    optimizer: str = "muon"
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
        check_name("optimizer", self.optimizer, OPTIMIZERS)
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
    """Return an optimizer of these parameters, each in exactly one named group; muon, for the
    matrices in `blocks`, is refused without them, and so is what makes no optimizer.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (0.9, config.beta2)
    if config.optimizer == "muon":
        inside = set() if blocks is None else {p for p in blocks.parameters() if p.ndim == 2}
        if not inside:
            raise UserError(
                "optimizer is muon, which needs a transformer: use adamw for this network"
            )
        others = _group("others", (p for p in trained if p not in inside), 0.0)
        matrices = _group("muon", (p for p in trained if p in inside), config.weight_decay)
        return MuonAndAdamW(
            AdamW([others], lr=config.learning_rate, betas=betas, fused=True),
            Muon([matrices], lr=config.muon_learning_rate),
        )
    # Smaller matrices make a simpler function; smaller biases and gains do not.
    groups = [
        _group("matrices", (p for p in trained if p.ndim >= 2), config.weight_decay),
        _group("others", (p for p in trained if p.ndim < 2), 0.0),
    ]
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.learning_rate, betas=betas)
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate)
    return _own_optimizer(groups, config)


def _group(name: str, parameters: Iterable[nn.Parameter], weight_decay: float) -> dict[str, Any]:
    return {"name": name, "params": list(parameters), "weight_decay": weight_decay}


def _own_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
    path, found = config.optimizer, import_own("optimizer", config.optimizer)
    try:
        optimizer = found(groups, lr=config.learning_rate)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer is {path!r}: {one_line(error)}") from error
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer is {path!r}: expected a torch.optim.Optimizer")
    return optimizer
