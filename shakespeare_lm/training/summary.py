"""What a run prints about itself at its start and its end.

Enters: the run's model, data and checkpoints. Leaves: lines on the console: what is trained on
what, where it resumes, its losses, and the commands to type next.
"""

import math
import shlex
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from rich import get_console
from rich.text import Text

from shakespeare_lm.data.datamodule import ShakespeareDataModule

_PROMPT = "ROMEO:"


class RunDescription(Callback):
    """Prints in one line what is trained on what, before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
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
        print(f"max_steps is {max_steps:,}: nothing left to do; use a higher --max_steps")


def print_early_stopping(trainer: Trainer) -> None:
    """Print why a callback ended the run before its last step, if one did."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            print(f"\nStopped early: {callback.stopping_reason_message.strip()}")


def print_summary(best: ModelCheckpoint, vocabulary: str) -> None:
    """Print how good the best checkpoint is, where it is, and what to do with it."""
    if best.best_model_score is None:
        return
    loss = best.best_model_score.double()
    path = Path(best.best_model_path)
    print(
        f"\nbest val_loss {loss:.4f} nats per character = {loss / math.log(2):.4f} bits per "
        f"character, perplexity {loss.exp():.3f}"
    )
    prompt = f' --prompt "{_PROMPT}"' if set(_PROMPT) <= set(vocabulary) else ""
    print(f"checkpoint    {_typed(path)}")
    print("Next:")
    print(f"  tensorboard --logdir {_typed(path.parents[2])}")
    print(f"  python scripts/complete.py --ckpt {_typed(path)}{prompt}")


def print_resume_command(path: Path, step: int) -> None:
    """Print how to resume from the last checkpoint with the options of this run."""
    if path.exists():
        config = _typed(path.parents[1] / "config.yaml")
        print(f"\nStopped at step {step:,}. To resume:")
        print(f"  python scripts/fit.py --config {config} --ckpt_path {_typed(path)}")


def _typed(path: Path) -> str:
    """Return the path as one would type it here."""
    path = path.resolve()
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(shown.as_posix())
