"""Whether the optimizer does well: its rates, the size of its steps, and its memory."""

import sys
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from shakespeare_lm.methods.muon import MuonAndAdamW
from shakespeare_lm.training.module import ShakespeareLM


class StepMetrics(Callback):
    """Logs the gradient's norm, the learning rates, `update_ratio` and `peak_memory_gib`.

    (Lightning's LearningRateMonitor names curves by optimizer, and counts steps from 0.)
    """

    def __init__(self) -> None:
        # The weights before a step, always in the same memory: several times faster.
        self._copies: list[Tensor] = []
        self._copied = False

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ShakespeareLM, optimizer: torch.optim.Optimizer
    ) -> None:
        if not pl_module.is_logged(trainer.global_step):
            return
        pl_module.log("gradient_norm", pl_module.gradient_norm(), batch_size=1)
        pl_module.log("learning_rate", optimizer.param_groups[0]["lr"], batch_size=1)
        if isinstance(optimizer, MuonAndAdamW):
            rate = optimizer.muon.param_groups[0]["lr"]
            pl_module.log("muon_learning_rate", rate, batch_size=1)
        weights = [parameter.detach() for parameter in pl_module.parameters()]
        if not self._copies:
            self._copies = [torch.empty_like(weight) for weight in weights]
        torch._foreach_copy_(self._copies, weights)
        self._copied = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not self._copied:  # not logged, or gradients are still accumulated
            return
        after = [parameter.detach() for parameter in pl_module.parameters()]
        pl_module.log("update_ratio", update_ratio(self._copies, after), batch_size=1)
        if (memory_bytes := peak_memory_bytes(pl_module.device)) is not None:
            pl_module.log("peak_memory_gib", memory_bytes / 2**30, batch_size=1)
        self._copied = False


def update_ratio(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """Return the norm of the change of all weights over their norm; `before` is overwritten."""
    norm_before = get_total_norm(before)
    torch._foreach_sub_(before, after)
    return get_total_norm(before) / norm_before


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the peak memory of tensors on a CUDA device, or of the process; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
