"""What a run prints about itself at its start and its end."""

import math
import os
import shlex
import time
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from rich import get_console

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import available_accelerators
from shakespeare_lm.invocation import command_line
from shakespeare_lm.training.history import ValidationHistory
from shakespeare_lm.training.schedule import planned_steps

_PROMPT = "ROMEO:"
# How long steps are timed before the first line says how long the run takes.
_SECONDS_OF_STEPS, _FEWEST_STEPS = 1.5, 3
# From here on a run of the default recipe is told of the shorter one.
_PATIENCE_SECONDS = 150
# The next better recipes on tiny Shakespeare, with val_loss and time as measured (docs/RECIPES.md).
_BETTER = {
    "laptop": "val_loss 1.38, 20 min on two cores",
    "memory-laptop": "val_loss 1.36, 30 min on two cores",
    "gpu": "val_loss 1.36, 80 s on an H100",
}


class RunDescription(Callback):
    """Prints what is trained on what, and how long it will take, as soon as a few steps are timed.

    Args:
        recipe: the recipe or YAML files of the run.
        reason: why it is this one, if it was not named.
    """

    def __init__(self, recipe: str, reason: str = "") -> None:
        self.recipe, self.reason = recipe, reason
        self._started: tuple[int, float] | None = None
        self._printed = False

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._printed = not trainer.is_global_zero

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._printed:
            return
        now = time.perf_counter()
        if self._started is None:  # the first step is slower than the others
            self._started = trainer.global_step, now
        step, started = self._started
        if now - started >= _SECONDS_OF_STEPS and trainer.global_step >= step + _FEWEST_STEPS:
            per_step = (now - started) / (trainer.global_step - step)
            self._print(trainer, pl_module, per_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self._printed:
            self._print(trainer, pl_module)  # a run of few steps

    def _print(
        self, trainer: Trainer, pl_module: LightningModule, per_step: float | None = None
    ) -> None:
        self._printed = True
        parts = [f"recipe {self.recipe}{self.reason}" if self.recipe else "no recipe"]
        steps = planned_steps(trainer)
        if steps > 0:
            parts.append(f"{steps:,} steps")
            if per_step is not None:
                parts.append(f"about {duration(per_step * steps)} here")
        network = getattr(pl_module, "network", pl_module)  # without what only training knows
        weights = sum(parameter.numel() for parameter in network.parameters())
        lines = [", ".join(parts)]
        if self.recipe == "default" and (per_step or 0) * steps > _PATIENCE_SECONDS:
            lines.append("--config quick takes less than half of that, and ends 0.06 nats higher")
        lines.append(f"{weights:,} weights on {pl_module.device.type} in {trainer.precision}")
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, ShakespeareDataModule):
            sizes = {name: len(part.ids) for name, part in data.encoded.items() if len(part.ids)}
            characters = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
            lines.append(f"characters: {characters}; {len(data.vocabulary)} different")
        for line in lines:
            get_console().print(line, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it, without false precision."""
    if seconds < 100:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def print_resuming(path: Path, step: int, max_steps: int) -> None:
    """Print where a run resumes, and whether anything is left to do."""
    print(f"resuming from {path}, step {step:,}")
    if 0 < max_steps <= step:
        print(f"max_steps is {max_steps:,}: nothing left to do; to train more, use --more_steps")


def print_waiting(trainer: Trainer) -> None:
    """Print what a run on several machines waits for, or raise a `UserError` if it is not known."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes < 2 or environment is None or trainer.local_rank > 0:
        return
    known = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys()
    if isinstance(environment, LightningEnvironment) and not known:
        raise UserError(
            f"num_nodes is {trainer.num_nodes}: set MASTER_ADDR and MASTER_PORT to an address of "
            "the first machine, and NODE_RANK to 0 there, 1 on the second, and so on"
        )
    node = f"node {environment.node_rank()} of {trainer.num_nodes}"
    address = f"{environment.main_address}:{environment.main_port}"
    print(f"{node}: waiting for the others at {address}", flush=True)


def print_early_stopping(trainer: Trainer) -> None:
    """Print why a callback ended the run before its last step, if one did."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            print(f"\nStopped early: {callback.stopping_reason_message.strip()}")


def print_loss(best: ModelCheckpoint, history: ValidationHistory, verdict: str | None) -> None:
    """Print how good the best checkpoint is, where it is, and whether the model overfits.

    The `verdict` compares its loss with other models'.
    """
    assert best.best_model_score is not None
    loss = best.best_model_score.cpu().double()  # MPS has no float64
    validation = history.find(float(loss))
    step = f", at step {validation.step:,}" if validation else ""
    print(
        f"\nbest val_loss {loss:.4f} nats per character{step}\n"
        f"= {loss / math.log(2):.4f} bits per character, perplexity {loss.exp():.3f}"
    )
    if verdict is not None:
        print(verdict)
    if validation and (overfitting := history.overfitting(validation)):
        print(f"{overfitting}; try more text, or --model.dropout 0.2")
    print(f"checkpoint    {_typed(Path(best.best_model_path))}")


def print_next(run: Path, recipe: str, logs: Path | None, vocabulary: str, has_page: bool) -> None:
    """Print what to type next.

    Args:
        run: the folder of the run, or its best checkpoint if that is elsewhere.
        recipe: the next better one on this text; empty if there is none.
        logs: the folder of TensorBoard's logs.
        vocabulary: the suggested prompt has no other characters.
        has_page: whether a page can show the model.
    """
    print("Next:")
    if recipe:
        print(f"  {command_line('fit')} --config {recipe}  # {_BETTER[recipe]}")
    ckpt = f" --ckpt {_typed(run)}"
    if has_page:
        print(f"  {command_line('page')}{ckpt}  # runs it in a browser")
    if logs is not None:
        print(f"  tensorboard --logdir {_typed(logs)}")
    prompt = f' --prompt "{_PROMPT}"' if set(_PROMPT) <= set(vocabulary) else ""
    print(f"  {command_line('complete')}{ckpt}{prompt}")


def better_recipe(recipe: str) -> str:
    """Return the next better recipe than this one on this machine; empty if there is none."""
    if "cuda" in available_accelerators():
        return "" if recipe == "gpu" else "gpu"
    following = {"laptop": "memory-laptop", "memory": "memory-laptop", "memory-laptop": ""}
    return following.get(recipe, "laptop")


def print_resume_command(path: Path, step: int, words: list[str] | None = None) -> None:
    """Print how to resume a run from its last checkpoint, or with these words."""
    if path.exists():
        again = shlex.join(words) if words else f"--ckpt_path {_typed(path.parents[1])}"
        print(f"\nStopped at step {step:,}. To resume:")
        print(f"  {command_line('fit')} {again}")


def _typed(path: Path) -> str:
    """Return the path as one would type it here."""
    path, here = path.resolve(), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(shown.as_posix())
