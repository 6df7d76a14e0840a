"""When a run ends: after the last step, a signal, the time limit, or a non-finite loss."""

import math
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer
from rich import get_console

from shakespeare_lm.errors import UserError
from shakespeare_lm.training.checkpointing import LastCheckpoint
from shakespeare_lm.training.module import ShakespeareLM


class ValidationSteps(Callback):
    """Validates, and thereby saves, after the last step, and makes `val_check_interval` count steps
    with `accumulate_grad_batches` too: Lightning 2.6.6 counts batches.
    """

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        last_epoch = 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1
        last_step = trainer.global_step >= trainer.max_steps > 0
        if last_step or (last_epoch and trainer.is_last_batch):
            trainer.should_stop = True  # Lightning validates before it stops
        self.on_train_start(trainer)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        interval = getattr(trainer, "val_check_interval", None)  # a time has no such attribute
        accumulates = trainer.accumulate_grad_batches > 1
        if accumulates and interval is not None and trainer.check_val_every_n_epoch is None:
            is_step = not trainer.fit_loop.epoch_loop._should_accumulate()
            is_due = is_step and trainer.global_step % interval == 0
            # Lightning validates if this divides the number of batches.
            trainer.val_check_batch = 1 if is_due else sys.maxsize


class Terminated(Exception):  # noqa: N818
    """Leaves the Trainer's loop after a signal other than Ctrl-C, when the state is saved."""


# Which a scheduler sends (SLURM, as a warning, SIGUSR1), or a terminal that is closed (SIGHUP).
# Windows has only the first.
_TERMINATION = [getattr(signal, n) for n in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, n)]


class StopOnSignal(Callback):
    """Ends a run on Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 so that it can be resumed.

    Ctrl-C finishes the step, validates and saves; a second Ctrl-C stops at once. The others finish
    the step and save through `last`, without a validation: SIGKILL may follow within seconds.
    """

    def __init__(self, last: LastCheckpoint | None) -> None:
        self.last = last
        # Written by the handler alone: a signal that arrives while the processes agree counts at
        # the next step.
        self._received = 0
        self._agreed, self._saved = 0, False
        self._previous: dict[int, Any] = {}

    @property
    def number(self) -> int:
        """The signal that ends the run, on this or another process; 0 without one."""
        return self._agreed or self._received

    @property
    def exit_code(self) -> int:
        """0 if no signal ended the run, else 128 + the signal's number, as in shells."""
        return 128 + self.number if self.number else 0

    def setup(self, trainer: Any, *_: Any, **__: Any) -> None:
        # At SIGUSR1, Lightning would submit a SLURM job again, as a new run.
        trainer._accelerator_connector.cluster_environment.auto_requeue = False

    def on_train_start(self, *_: Any) -> None:
        # Lightning's own handler of SIGTERM leaves the loop without saving.
        for number in (signal.SIGINT, *_TERMINATION):
            if signal.getsignal(number) != signal.SIG_IGN:  # which is what nohup asks for
                self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        hint = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        with suppress(RuntimeError, OSError):  # the signal came while something else was printed
            get_console().print(f"\nStopping after this step{hint}.")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # A signal to one process stops them all, or the others would wait for it forever.
        self._agreed = self._received
        if trainer.world_size > 1:
            received = torch.tensor(self._received, device=pl_module.device)
            self._agreed = int(trainer.strategy.reduce(received, reduce_op="max"))
        if self._agreed == signal.SIGINT:
            trainer.should_stop = True
        elif self._agreed:
            if self.last is not None:
                self.last.save(trainer)
            self._saved = True

    def on_train_batch_start(self, *_: Any) -> None:
        # Not at the end of the previous step: its losses would be missing in the log.
        if self._saved:
            raise Terminated

    # Not in `teardown`, which comes after Lightning has restored its own handlers.
    def _restore_handlers(self, *_: Any, **__: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    on_train_end = on_exception = _restore_handlers


class StopWithoutImprovement(EarlyStopping):
    """Ends a run after `patience` validations without a lower `val_loss`.

    Lightning's EarlyStopping keeps the patience of the first part in a resumed run (not reported).
    `restarted` counts from the start of this run, whose schedule begins anew.
    """

    def __init__(self, patience: int, restarted: bool) -> None:
        super().__init__("val_loss", patience=patience, check_finite=False)
        self.restarted = restarted

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = {**state_dict, "patience": self.patience, "stopping_reason_message": None}
        super().load_state_dict({**state, "wait_count": 0} if self.restarted else state)


class RunTimer(Timer):
    """Ends a run after `--max_time`, counted from its own start.

    Lightning's Timer also counts the time of the runs that it resumes: a job submitted again with
    the same options would end at once (not reported).
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    @property
    def is_over(self) -> bool:
        remaining = self.time_remaining()
        return remaining is not None and remaining <= 0


class StopOnDivergence(Callback):
    """Ends a run with a non-finite loss or gradient, before weights or checkpoints are damaged."""

    def __init__(self) -> None:
        self.learning_rate = math.nan

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_before_backward(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ShakespeareLM, loss: torch.Tensor
    ) -> None:
        # One of several processes would stop here alone, and the others wait for it: the gradient,
        # which they share, stops them all.
        alone = trainer.world_size == 1
        if alone and self._is_due(trainer, pl_module) and not torch.isfinite(loss):
            self._stop("train_loss", loss.detach(), trainer, trainer.global_step + 1)

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ShakespeareLM, *_: Any
    ) -> None:
        # Float16 training scales the loss, and skips steps whose gradients overflow.
        if not self._is_due(trainer, pl_module) or trainer.precision == "16-mixed":
            return
        norm = pl_module.gradient_norm()
        if not torch.isfinite(norm):
            self._stop("gradient_norm", norm, trainer, trainer.global_step + 1)

    def _is_due(self, trainer: Trainer, pl_module: ShakespeareLM) -> bool:
        # Reading a number from a GPU waits for it, so there only when it is logged anyway.
        return pl_module.device.type == "cpu" or pl_module.is_logged(trainer.global_step)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        loss = torch.as_tensor(trainer.callback_metrics.get("val_loss", 0.0))
        if not torch.isfinite(loss):
            self._stop("val_loss", loss, trainer, trainer.global_step)

    def _stop(self, name: str, value: torch.Tensor, trainer: Trainer, step: int) -> None:
        saved = getattr(trainer.checkpoint_callback, "best_model_path", "")
        kept = f"the best checkpoint is kept: {saved}" if saved else "no model has been saved yet"
        raise UserError(
            f"{name} is {float(value)} at step {step} (learning rate "
            f"{self.learning_rate:.2g}): the training diverged; try {_advice(trainer)}; {kept}"
        )


def _advice(trainer: Trainer) -> str:
    """Return what to try after a divergence, other than what is on already."""
    config = cast(ShakespeareLM, trainer.lightning_module).config
    rates = f"--model.learning_rate below {config.learning_rate:g}"
    if config.optimizer == "muon":
        rates += f" and --model.muon_learning_rate below {config.muon_learning_rate:g}"
    warmup = f"--model.warmup_steps above {config.warmup_steps}"
    clip = "" if trainer.gradient_clip_val else ", --gradient_clip_val 1.0"
    # AdamW divides by zero where a float16 cannot hold its epsilon.
    range_ = ", --precision bf16-mixed" if trainer.precision == "16-true" else ""
    return f"{rates}, {warmup}{clip}{range_}"
