"""What a run shows while it trains: one progress bar over all its steps, and the throughput."""

import itertools
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from pytorch_lightning.callbacks import Timer
from rich import get_console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.schedule import planned_steps

_UPDATES_PER_SECOND = 4
_NARROWEST_BAR = 8  # characters, without which time and losses are left out
_SPACES = 5  # between the columns, with the spinner


class ProgressBar(LightningProgressBar):
    """One bar over the whole run with the time left, for terminals; it vanishes when the run ends.

    Lightning's count each epoch anew, and, updated after every step, make a small model's steps two
    to five times as long (https://github.com/Lightning-AI/pytorch-lightning/issues/13937).
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled, self._updated = True, 0.0
        self._bar: Progress | None = None
        self._planned_steps = -1
        self._began = (0.0, 0, 0.0)  # time, steps and share done when this run started

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def say(self, description: str) -> None:
        """Show what the run is doing, if it shows a bar."""
        if self._bar is not None:
            self._bar.update(TaskID(0), description=description)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._planned_steps = planned_steps(trainer)
        self._began = (time.monotonic(), trainer.global_step, self._share_done(trainer) or 0.0)
        self._start()
        self._show_step(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._is_due() or trainer.should_stop:
            self._show_step(trainer)

    def on_validation_start(self, *_: Any) -> None:
        self.say("validation")

    def on_test_start(self, *_: Any) -> None:
        self._start()
        self.say("test")

    # The last of what these are given are the numbers of the batch and of the loader.
    def on_validation_batch_end(self, trainer: Trainer, *given: Any) -> None:
        self._show_batch("validation", trainer.num_val_batches, *given[3:])

    def on_test_batch_end(self, trainer: Trainer, *given: Any) -> None:
        self._show_batch("test", trainer.num_test_batches, *given[3:])

    def teardown(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    on_exception = teardown

    def _start(self) -> None:
        if self._enabled and self._bar is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(None),
                       TextColumn("{task.fields[rest]}"))  # fmt: skip
            self._bar = Progress(
                *columns, console=get_console(), refresh_per_second=_UPDATES_PER_SECOND,
                transient=True, expand=True,
            )  # fmt: skip
            self._bar.add_task("", total=None, rest="")
            self._bar.start()

    def _is_due(self) -> bool:
        now = time.monotonic()
        due = self._bar is not None and now - self._updated > 1 / _UPDATES_PER_SECOND
        if due:
            self._updated = now
        return due

    def _show_batch(self, name: str, counts: Sequence[float], batch: int, loader: int = 0) -> None:
        if self._is_due():
            self.say(f"{name} {sum(counts[:loader]) + batch + 1:,}/{sum(counts):,}")

    def _show_step(self, trainer: Trainer) -> None:
        if self._bar is None:
            return
        share, step = self._share_done(trainer), f"step {trainer.global_step:,}"
        if self._planned_steps > 0:
            step += f"/{self._planned_steps:,}"
        room = get_console().width - len(step) - _SPACES - _NARROWEST_BAR
        longer = itertools.accumulate(self._details(trainer, share), "{}  {}".format)
        *_, rest = "", *(text for text in longer if len(text) <= room)
        total = None if share is None else 1.0
        self._bar.update(
            TaskID(0), description=step, completed=share or 0.0, total=total, rest=rest
        )

    def _details(self, trainer: Trainer, share: float | None) -> list[str]:
        """Return time left, losses and speed, the most important first."""
        began, first_step, first_share = self._began
        seconds = time.monotonic() - began
        details = []
        if share is not None and share > first_share:
            left = seconds * (1 - share) / (share - first_share)
            details.append(f"{timedelta(seconds=round(left))} left")
        metrics = trainer.progress_bar_metrics
        details += [f"{name} {float(value):.3f}" for name, value in metrics.items()]
        return [*details, f"{(trainer.global_step - first_step) / max(seconds, 1e-9):.1f} steps/s"]

    def _share_done(self, trainer: Trainer) -> float | None:
        """Return how much of the run is done, by its steps or its time; None if neither ends it."""
        shares = []
        if self._planned_steps > 0:
            shares.append(trainer.global_step / self._planned_steps)
        for timer in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:
                elapsed = timer.time_elapsed()
                shares.append(elapsed / max(elapsed + left, 1e-9))
        return min(max(shares), 0.999) if shares else None  # a finished bar would stand still


def announce(trainer: Trainer, description: str) -> None:
    """Show on the progress bar, if there is one, what the run does between two steps."""
    if isinstance(trainer.progress_bar_callback, ProgressBar):
        trainer.progress_bar_callback.say(description)


class Throughput(Callback):
    """Logs `tokens_per_second`, real characters per second of training in this process; and keeps
    the sums over the whole process: `total_characters` and `train_seconds`.
    """

    def __init__(self) -> None:
        self._counted, self.train_seconds = 0, 0.0
        self.characters = torch.tensor(0)
        self.restart()

    @property
    def total_characters(self) -> int:
        """All characters that this process trained on, repetitions included."""
        return self._counted + int(self.characters)

    def restart(self, *_: Any, **__: Any) -> None:
        """Start the clock at the next batch: what comes in between is not training."""
        self._counted, self.characters = self.total_characters, torch.tensor(0)
        self.started: float | None = None
        self._newest = 0.0

    on_validation_end = restart  # pictures, samples and checkpoints follow

    def on_train_batch_start(self, *_: Any) -> None:
        if self.started is None:
            self.started = self._newest = time.perf_counter()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ShakespeareLM, outputs: Any, batch: Batch, _: int
    ) -> None:
        self.characters = self.characters + batch.target_mask.sum()
        is_logged = pl_module.is_logged(trainer.global_step - 1)
        characters = int(self.characters) if is_logged else 0  # waits for the device
        now = time.perf_counter()
        self.train_seconds, self._newest = self.train_seconds + now - self._newest, now
        if is_logged:
            assert self.started is not None
            pl_module.log("tokens_per_second", characters / (now - self.started), batch_size=1)
            self._counted += characters
            self.characters, self.started = torch.tensor(0), now
