"""A recipe as scripts/fit.py builds it: trainer, model and data, in a temporary folder.

Enters: a config and options. Leaves: a `ShakespeareCLI` that has not trained yet.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence

import torch

from shakespeare_lm.commands.fit_cli import ShakespeareCLI

# Only training is measured. Lightning always validates once at the end.
_WITHOUT_VALIDATION = (
    "--val_check_interval=1000000000",
    "--check_val_every_n_epoch=null",
    "--limit_val_batches=1",
    "--sample.max_new_tokens=0",
    "--enable_progress_bar=false",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a recipe and a device."""
    parser.add_argument("--config", default="default", help="a recipe's name, or a path (default)")
    parser.add_argument("--accelerator", default="auto", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--corpus", help="another text than the recipe's")


def options_of(arguments: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """Return the benchmark's arguments as options of fit.py."""
    options = [f"--config={arguments.config}", f"--accelerator={arguments.accelerator}", *more]
    return options if arguments.corpus is None else [*options, f"--data.corpus={arguments.corpus}"]


@contextlib.contextmanager
def built(options: Sequence[str]) -> Iterator[ShakespeareCLI]:
    """Build a recipe; whatever its run writes or prints is discarded."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cli = ShakespeareCLI([*options, *_WITHOUT_VALIDATION, f"--default_root_dir={folder}"])
        cli.datamodule.setup()
        yield cli


def device_of(cli: ShakespeareCLI) -> torch.device:
    return cli.trainer.strategy.root_device


def dtype_of(cli: ShakespeareCLI) -> torch.dtype:
    """Return the number format of matrix products."""
    return torch.bfloat16 if cli.trainer.precision == "bf16-mixed" else torch.float32


def planned_steps(cli: ShakespeareCLI) -> int:
    """Return the number of steps of the whole recipe."""
    if cli.trainer.max_steps > 0:
        return cli.trainer.max_steps
    return (cli.trainer.max_epochs or 1) * len(cli.datamodule.train_dataloader())


def characters_per_step(cli: ShakespeareCLI) -> float:
    """Return how many real characters a step predicts on average."""
    lengths = cli.datamodule.encoded["train"].lengths
    return int((lengths - 1).clamp(min=0).sum()) / len(cli.datamodule.train_dataloader())
