"""What a run prints about itself at its start and its end."""

import math
import os
import shlex
from pathlib import Path

from lightning_fabric.plugins.environments import LightningEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from rich import get_console
from rich.text import Text

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError
from shakespeare_lm.invocation import command_line
from shakespeare_lm.training.history import ValidationHistory

_PROMPT = "ROMEO:"


class RunDescription(Callback):
    """Prints in one line what is trained on what, before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        network = getattr(pl_module, "network", pl_module)  # without what only training knows
        parameters = sum(parameter.numel() for parameter in network.parameters())
        line = f"{parameters:,} parameters on {pl_module.device.type} in {trainer.precision}"
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, ShakespeareDataModule):
            sizes = {name: len(part.ids) for name, part in data.encoded.items() if len(part.ids)}
            characters = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
            line += f"; characters: {characters}, {len(data.vocabulary)} different"
        get_console().print(Text(line), soft_wrap=True)


def print_resuming(path: Path, step: int, max_steps: int) -> None:
    """Print where a run resumes, and whether anything is left to do."""
    print(f"resuming from {path}, step {step:,}")
    if 0 < max_steps <= step:
        print(f"max_steps is {max_steps:,}: nothing left to do; to train more, use --more_steps")


def print_quick() -> None:
    """Print that a run in float32 has the shorter recipe, and how to take the longer one."""
    print(
        "recipe quick, because this run is in float32; --config default takes longer and ends lower"
    )


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


def print_summary(
    best: ModelCheckpoint,
    history: ValidationHistory,
    vocabulary: str,
    logs: Path | None,
    verdict: str | None = None,
) -> None:
    """Print how good the best checkpoint is, where it is, and what to do with it.

    The suggested prompt has characters of the `vocabulary` only; `logs` is the folder of
    TensorBoard's logs; the `verdict` compares the loss with other models.
    """
    if best.best_model_score is None:
        return
    loss = best.best_model_score.double()
    path = Path(best.best_model_path)
    validation = history.find(float(loss))
    step = f", at step {validation.step:,}" if validation else ""
    print(
        f"\nbest val_loss {loss:.4f} nats per character = {loss / math.log(2):.4f} bits per "
        f"character, perplexity {loss.exp():.3f}{step}"
    )
    if verdict is not None:
        print(verdict)
    if validation and (overfitting := history.overfitting(validation)):
        print(f"{overfitting}; try more text, or --model.dropout 0.2")
    prompt = f' --prompt "{_PROMPT}"' if set(_PROMPT) <= set(vocabulary) else ""
    print(f"checkpoint    {_typed(path)}")
    print("Next:")
    if logs is not None:
        print(f"  tensorboard --logdir {_typed(logs)}")
    print(f"  {command_line('complete')} --ckpt {_typed(path)}{prompt}")


def print_resume_command(path: Path, step: int) -> None:
    """Print how to resume a run from its last checkpoint."""
    if path.exists():
        print(f"\nStopped at step {step:,}. To resume:")
        print(f"  {command_line('fit')} --ckpt_path {_typed(path.parents[1])}")


def _typed(path: Path) -> str:
    """Return the path as one would type it here."""
    path, here = path.resolve(), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(shown.as_posix())
