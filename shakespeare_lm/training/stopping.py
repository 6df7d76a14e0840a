"""When a run ends, and what is saved then: the last step, a signal, the time, a loss that is no
number.

Enters: the Trainer's events. Leaves: a run that stopped with its checkpoint, or an error.
"""

import math
import signal
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Timer
from rich import get_console

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.errors import UserError
from shakespeare_lm.training.checkpointing import LastCheckpoint


class FinalValidation(Callback):
    """Validates, and so saves, after the last step, wherever the last validation was."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        last_epoch = 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1
        last_step = trainer.global_step >= trainer.max_steps > 0
        if last_step or (last_epoch and trainer.is_last_batch):
            trainer.should_stop = True  # Lightning validates once more before it stops


class StepAxis(Callback):
    """Keeps the step that curves are drawn over equal to the number of steps taken.

    Lightning 2.6.6 counts it separately, and is one behind after resuming from a checkpoint of a
    validation that was not due, such as the one after Ctrl-C.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Between the batches of one step too: a resumed run repeats all from its own step on.
        trainer.fit_loop.epoch_loop._batches_that_stepped = max(0, trainer.global_step - 1)


class Terminated(Exception):  # noqa: N818
    """Leaves the Trainer's loop after SIGTERM; the state is saved."""


class StopOnSignal(Callback):
    """Ends a run such that it can be gone on with when the user or the system asks for that.

    Ctrl-C lets it finish the step, validate and save; a second Ctrl-C stops at once. SIGTERM saves
    after the step and stops, without validation: a scheduler sends SIGKILL within seconds.

    Args:
        last: where SIGTERM saves; None saves nothing.
    """

    def __init__(self, last: LastCheckpoint | None) -> None:
        self.last = last
        self.number = 0
        self._saved = False
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 for a run that no signal ended, or as shells have it: 128 + the signal's number."""
        return 128 + self.number if self.number else 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning's own handler of SIGTERM leaves the loop without saving.
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        hint = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        get_console().print(f"\nStopping after this step{hint}.")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        # One process that was told to stop stops them all, or the others would wait for ever.
        if trainer.world_size > 1:
            told = torch.tensor(self.number, device=pl_module.device)
            self.number = int(trainer.strategy.reduce(told, reduce_op="max"))
        if self.number == signal.SIGINT:
            trainer.should_stop = True
        elif self.number == signal.SIGTERM:
            if self.last is not None:
                self.last.save(trainer)
            self._saved = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        # Not at the end of the step before: its losses would be missing in the log.
        if self._saved:
            raise Terminated

    # Not in `teardown`, which comes after Lightning has put back its own: it would undo that.
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class RunTimer(Timer):
    """Ends a run after `--max_time`, counted from its own start: a resumed run has as much again.

    Lightning's Timer counts the runs before too, so that a job that is started again with the same
    options would end at once.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    @property
    def is_over(self) -> bool:
        remaining = self.time_remaining()
        return remaining is not None and remaining <= 0


class StopOnDivergence(Callback):
    """Ends a run whose loss or gradient is no number any more, before weights or checkpoints take
    harm.
    """

    def __init__(self) -> None:
        self.learning_rate = math.nan

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        # Of several processes one alone would stop here, and the others wait for it: the gradient,
        # which they share, tells them all.
        alone = trainer.world_size == 1
        if alone and self._is_due(trainer, pl_module) and not torch.isfinite(loss):
            self._stop("train_loss", loss.detach(), trainer, trainer.global_step + 1)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # Float16 scales the loss, and skips the steps whose gradients then overflow.
        if not self._is_due(trainer, pl_module) or trainer.precision == "16-mixed":
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        length = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(length):
            self._stop("gradient_norm", length, trainer, trainer.global_step + 1)

    def _is_due(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        # Looking at a number on a GPU waits for it, so there only now and then.
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        on_cpu = pl_module.device.type == "cpu"
        return on_cpu or bool(every and trainer.global_step % every == 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = torch.as_tensor(trainer.callback_metrics.get("val_loss", 0.0))
        if not torch.isfinite(loss):
            self._stop("val_loss", loss, trainer, trainer.global_step)

    def _stop(self, name: str, value: torch.Tensor, trainer: Trainer, step: int) -> None:
        saved = getattr(trainer.checkpoint_callback, "best_model_path", "")
        kept = f"the best checkpoint is kept: {saved}" if saved else "no model was saved yet"
        raise UserError(
            f"{name} is {float(value)} at step {step} (learning rate "
            f"{self.learning_rate:.2g}): the "
            "training diverged; try lower learning rates "
            "(--model.learning_rate, --model.muon_learning_rate), "
            f"more --model.warmup_steps, or --gradient_clip_val 1.0; {kept}"
        )
