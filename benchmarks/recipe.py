"""A recipe as scripts/fit.py would build it: trainer, model and data, in a folder that goes away.

Enters: a config and options. Leaves: a `ShakespeareCLI`, of which nothing has run yet.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from shakespeare_lm.commands.fit import ShakespeareCLI
from shakespeare_lm.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
# Training alone is measured. Lightning cannot be kept from validating once, at the end.
_NO_VALIDATION = (
    "--val_check_interval=1000000000",
    "--check_val_every_n_epoch=null",
    "--limit_val_batches=1",
    "--sample.max_new_tokens=0",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which recipe is measured, where."""
    parser.add_argument("--config", default="default", help="a recipe's name, or a path (default)")
    parser.add_argument("--accelerator", default="auto", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--corpus", help="another text than the recipe's")


def options_of(arguments: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """Return the command line of fit.py that the benchmark's arguments stand for."""
    options = [f"--config={_config_path(arguments.config)}"]
    options += [f"--accelerator={arguments.accelerator}", *more]
    return options if arguments.corpus is None else [*options, f"--data.corpus={arguments.corpus}"]


def _config_path(name_or_path: str) -> Path:
    named = CONFIGS / f"{name_or_path}.yaml"
    path = named if named.exists() else Path(name_or_path)
    if not path.exists():
        names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise UserError(f"config is {name_or_path}: accepted is a YAML file's path, or {names}")
    return path


@contextlib.contextmanager
def built(options: Sequence[str], progress_bar: bool = False) -> Iterator[ShakespeareCLI]:
    """Build a recipe; what its run writes is deleted in the end, and what it says is not shown.

    With a progress bar it is shown, on stderr.
    """
    console = sys.stderr if progress_bar else io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(console):
        quiet = [f"--enable_progress_bar={str(progress_bar).lower()}", *_NO_VALIDATION]
        cli = ShakespeareCLI([*options, *quiet, f"--default_root_dir={folder}"])
        cli.datamodule.setup()
        yield cli


def device_of(cli: ShakespeareCLI) -> torch.device:
    return cli.trainer.strategy.root_device


def dtype_of(cli: ShakespeareCLI) -> torch.dtype:
    """Return the number format that matrices are multiplied in."""
    mixed = cli.trainer.precision == "bf16-mixed"
    return torch.bfloat16 if mixed else torch.float32


def planned_steps(cli: ShakespeareCLI) -> int:
    """Return the steps of the whole recipe."""
    if cli.trainer.max_steps > 0:
        return cli.trainer.max_steps
    return (cli.trainer.max_epochs or 1) * len(cli.datamodule.train_dataloader())


def characters_per_step(cli: ShakespeareCLI) -> float:
    """Return how many characters a step predicts: rows that stay free in a batch do not count."""
    lengths = cli.datamodule.encoded["train"].lengths
    return int((lengths - 1).clamp(min=0).sum()) / len(cli.datamodule.train_dataloader())
