"""What a run of the command line says of itself, and what it keeps quiet about.

Enters: the checkpoints that a run wrote. Leaves: its losses, and the commands to type next.
"""

import logging
import math
import shlex
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

from shakespeare_lm.errors import one_line

_PROMPT = "ROMEO:"


def print_resuming(path: Path, step: int, max_steps: int) -> None:
    """Say where a resumed run goes on, and if nothing is left of it."""
    print(f"going on from {path}, step {step:,}")
    if 0 < max_steps <= step:
        print(f"max_steps is {max_steps:,}: nothing is left to do; give more --max_steps to go on")


def print_summary(best: ModelCheckpoint, vocabulary: str) -> None:
    """Say how good the best checkpoint is, where it lies, and what to do with it."""
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
    """Say how to go on from the last checkpoint, with the options of this run."""
    if path.exists():
        config = _typed(path.parents[1] / "config.yaml")
        print(f"\nStopped at step {step:,}. To go on from there:")
        print(f"  python scripts/fit.py --config {config} --ckpt_path {_typed(path)}")


def _typed(path: Path) -> str:
    """Return the path as one would type it here."""
    path = path.resolve()
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(shown.as_posix())


def prepare_console() -> None:
    """Keep adverts, and warnings that a user can do nothing about, off the console.

    And let samples of any script be printed, with ? for what the console's encoding lacks.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.showwarning = _show_warning
    threading.excepthook = _thread_failed
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Say in a line that TensorBoard's thread cannot write; the run then ends with that error."""
    if isinstance(failed.exc_value, OSError):
        reason = one_line(failed.exc_value)
        print(f"warning: the log cannot be written: {reason}", file=sys.stderr)
    else:
        threading.__excepthook__(failed)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if not isinstance(message, DeprecationWarning | FutureWarning):  # for developers of libraries
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
