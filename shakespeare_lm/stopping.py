"""When a run ends, and what is saved then: the last step, Ctrl-C, a loss that is no number.

Enters: the Trainer's events. Leaves: a run that stopped with its checkpoint, or an error.
"""

import math
import signal
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich import get_console

from shakespeare_lm.chunks import Batch
from shakespeare_lm.errors import UserError


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


class StopOnInterrupt(Callback):
    """Lets Ctrl-C finish the step, validate and save; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._previous = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        get_console().print("\nStopping after this step; press Ctrl-C again to stop at once.")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        # One process that was interrupted stops them all, or the others would wait for it for ever.
        if trainer.world_size > 1:
            self.interrupted = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        # Between the batches of one step, a checkpoint would lose the gradient gathered so far.
        if self.interrupted and not trainer.fit_loop._should_accumulate():
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


class StopOnDivergence(Callback):
    """Ends a run whose loss is no number any more, before a checkpoint of it is written."""

    def __init__(self) -> None:
        self.learning_rate = math.nan

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        # Looking at a number on a GPU waits for it, so there only now and then.
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = pl_module.device.type == "cpu" or (every and trainer.global_step % every == 0)
        if due and not torch.isfinite(outputs["loss"]):
            self._stop("train_loss", float(outputs["loss"]), trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("val_loss", 0.0))
        if not math.isfinite(loss):
            self._stop("val_loss", loss, trainer)

    def _stop(self, name: str, loss: float, trainer: Trainer) -> None:
        saved = getattr(trainer.checkpoint_callback, "best_model_path", "")
        kept = f"the best checkpoint is kept: {saved}" if saved else "nothing was saved yet"
        raise UserError(
            f"{name} is {loss} at step {trainer.global_step} (learning rate "
            f"{self.learning_rate:.2g}): the training diverged; try lower learning rates "
            "(--model.learning_rate, --model.muon_learning_rate), "
            f"more --model.warmup_steps, or --gradient_clip_val 1.0; {kept}"
        )
