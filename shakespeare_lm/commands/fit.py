"""The command `fit`: Lightning's command line with short names, this project's defaults, and exit
codes.

Enters: arguments. Leaves: a trained model in `lightning_logs/version_N/`, and what to type next.
"""

import argparse
import inspect
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from shakespeare_lm.checkpoint.runs import LOG_FOLDER, Resumable, resolve_checkpoint
from shakespeare_lm.commands.shared import prepare_console
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError, check_at_least, check_positive, one_line
from shakespeare_lm.hardware import available_accelerators, fastest_precision
from shakespeare_lm.training.checkpointing import AtomicCheckpointIO, LastCheckpoint
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.progress import ProgressBar, SampleText, Throughput
from shakespeare_lm.training.run_folder import RunConfig, RunLogger, lock_run
from shakespeare_lm.training.stopping import (
    FinalValidation,
    RunTimer,
    StepAxis,
    StopOnDivergence,
    StopOnSignal,
    Terminated,
)
from shakespeare_lm.training.summary import (
    RunDescription,
    print_early_stopping,
    print_resume_command,
    print_resuming,
    print_summary,
)

INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, as shells have it

_DESCRIPTION = (
    "Train a character-level transformer. Trainer options have short names too: --max_steps 500 is "
    "--trainer.max_steps 500, --accelerator gpu is --trainer.accelerator gpu."
)
_TRAINER_DEFAULTS = {
    "max_steps": 950,
    "val_check_interval": 475,
    "check_val_every_n_epoch": None,  # so that val_check_interval counts steps across epochs
    "log_every_n_steps": 10,  # fewer than the bundled scene has batches
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 1.0,
    "enable_model_summary": False,  # `RunDescription` prints one line
}
_TRAINER_OPTIONS = tuple(inspect.signature(Trainer).parameters)


def expand_short_names(arguments: list[str]) -> list[str]:
    """Spell out Trainer options: `--max_steps=5` becomes `--trainer.max_steps=5`."""
    full = {f"--{name}": f"--trainer.{name}" for name in _TRAINER_OPTIONS}
    full["--seed"] = "--seed_everything"
    # The name ends before a value, a nested key, or the + that appends to a list.
    name = re.compile(r"^--\w+(?=$|[=.+])")
    return [name.sub(lambda found: full.get(found[0], found[0]), word) for word in arguments]


class ShakespeareCLI(LightningCLI):
    """LightningCLI with this project's classes and defaults.

    Args:
        arguments: as typed; `sys.argv` if not given.
        default_config: YAML file to use if no `--config` is given.
    """

    def __init__(
        self, arguments: list[str] | None = None, default_config: Path | None = None
    ) -> None:
        self._arguments = sys.argv[1:] if arguments is None else arguments
        self._default_config = default_config
        self.best = ModelCheckpoint(
            filename="best",
            monitor="val_loss",
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.last = LastCheckpoint()
        self.resumed: Resumable | None = None
        super().__init__(
            ShakespeareLM,
            ShakespeareDataModule,
            run=False,
            seed_everything_default=1337,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "description": _DESCRIPTION,
                "usage": "fit.py [--config FILE] [options]",
            },
            auto_configure_optimizers=False,
        )

    @property
    def resumed_step(self) -> int:
        """The step of the checkpoint that the run resumes from; 0 for a new run."""
        return self.resumed.step if self.resumed else 0

    def _callbacks(self, config: Mapping[str, Any]) -> list[Callback]:
        """Return all callbacks but `SampleText`, which Lightning adds because it has options."""
        saves = config["enable_checkpointing"] is not False
        self.stop_on_signal = StopOnSignal(self.last if saves else None)
        self.timer = RunTimer(config["max_time"])
        callbacks: list[Callback] = [RunDescription(), StepAxis(), Throughput()]
        callbacks += [FinalValidation(), StopOnDivergence(), self.stop_on_signal, self.timer]
        if config["enable_progress_bar"] is not False:
            callbacks.append(ProgressBar())
        if saves:
            callbacks += [self.best, self.last]
        return callbacks

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's options first, so that the help starts with them."""
        parser.add_lightning_class_args(ShakespeareLM, "model")
        parser.add_lightning_class_args(ShakespeareDataModule, "data")
        parser.add_lightning_class_args(SampleText, "sample")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in _TRAINER_DEFAULTS.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="resume from this checkpoint: a path, or last (of the newest run)",
        )
        # The old name of window_order: known, so that `parse_arguments` can name the new one.
        parser.add_argument(
            "--data.sampling", type=str, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        parser.link_arguments("data.context_length", "model.context_length")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("data.vocabulary", "model.vocabulary", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        arguments = expand_short_names(self._arguments)
        configured = any(argument.partition("=")[0] in ("-c", "--config") for argument in arguments)
        if self._default_config is not None and not configured:
            arguments = ["--config", str(self._default_config), *arguments]
        self.config = parser.parse_args(arguments)
        if "sampling" in self.config["data"]:
            parser.error("data.sampling was renamed: use data.window_order")
        seed = self.config["seed_everything"]
        if not 0 <= int(seed) < 1 << 32:
            raise UserError(f"seed_everything is {seed}: expected 0 <= seed_everything < 2^32")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init["trainer"]
        check_trainer_options(config)
        root = Path(config["default_root_dir"] or ".")
        # Not in the config.yaml that the run leaves, which repeats the run from its start.
        ckpt_path, self.config["ckpt_path"] = self.config["ckpt_path"], None
        if ckpt_path is not None:
            self.resumed = resolve_checkpoint(ckpt_path, root / LOG_FOLDER)
        if config["logger"] in (None, True):
            kwargs["logger"] = _logger(root, self.resumed)
        self.trainer_defaults["callbacks"] = self._callbacks(config)
        if not any(isinstance(plugin, CheckpointIO) for plugin in _listed(config["plugins"])):
            kwargs["plugins"] = [*_listed(config["plugins"]), AtomicCheckpointIO(self.resumed)]
        if config["precision"] is None and not config["plugins"]:
            kwargs["precision"] = fastest_precision(str(config["accelerator"]))
            # For the config.yaml that the run leaves, so that another machine repeats the run.
            self.config["trainer"]["precision"] = kwargs["precision"]
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            reason = one_line(error)
            if any(word in reason for word in ("accelerator", "backend", "devices")):
                asked = f"--accelerator {config['accelerator']} --devices {config['devices']}"
                has = ", ".join(available_accelerators())
                reason = f"{asked}: {reason} This machine has: {has}"
            raise UserError(f"the Trainer rejects these options: {reason}") from error


def check_trainer_options(config: Mapping[str, Any]) -> None:
    """Refuse values that Lightning accepts, but that divide by zero, train nothing, or never end.

    Raises:
        UserError: naming the first.
    """
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if config[name] == 0:
            raise UserError(f"{name} is 0: nothing to train; expected a value > 0")
    if config["limit_val_batches"] == 0:
        raise UserError(
            "limit_val_batches is 0: expected a value > 0, because checkpoints are chosen by "
            "val_loss"
        )
    if config["val_check_interval"] is not None:
        check_positive(val_check_interval=config["val_check_interval"])
    if config["gradient_clip_val"] is not None:
        check_at_least(0, gradient_clip_val=config["gradient_clip_val"])
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        if isinstance(config[name], int):
            check_at_least(1, **{name: config[name]})


def _listed(plugins: Any) -> list[Any]:
    return list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins else []


def _logger(root: Path, resumed: Resumable | None) -> RunLogger:
    """Log to a new version's folder, or, for a resumed run under this root, to its own."""
    version, purge_step = None, None
    if resumed is not None:
        folder = resumed.path.resolve().parent.parent
        match = re.fullmatch(r"version_(\d+)", folder.name)
        if match and folder.parent == (root / LOG_FOLDER).resolve():
            version = int(match[1])
            # The resumed run logs again what the first run logged after this checkpoint.
            purge_step = resumed.step
    return RunLogger(
        root, LOG_FOLDER, version=version, default_hp_metric=False, purge_step=purge_step
    )


def fit(arguments: list[str] | None = None, default_config: Path | None = None) -> ShakespeareCLI:
    """Train; return the command line object with its trainer, model and data module.

    Raises:
        UserError: for a mistake that the user can correct.
    """
    cli = ShakespeareCLI(arguments, default_config)
    trainer, data = cli.trainer, cli.datamodule
    # Mistakes in the text and the schedule show here, before a folder for the run is created.
    data.setup()
    if not trainer.max_epochs or trainer.max_epochs < 0:
        cli.model.config.total_steps(trainer.max_steps)
    if cli.resumed is not None and trainer.is_global_zero:
        print_resuming(cli.resumed.path, cli.resumed_step, trainer.max_steps)
    _train(cli)
    interrupted = cli.stop_on_signal.number > 0
    if trainer.is_global_zero:
        if interrupted or cli.timer.is_over:
            print_resume_command(cli.last.path, trainer.global_step)
        print_early_stopping(trainer)
        print_summary(cli.best, data.vocabulary)
    if data.split_config.test_fraction > 0 and not interrupted:
        best = cli.best.best_model_path or None
        trainer.test(cli.model, datamodule=data, ckpt_path=best, weights_only=True)
    return cli


def _locked(trainer: Trainer) -> AbstractContextManager[object]:
    """Lock the folder that the run writes to; the first process does so for all."""
    if not isinstance(trainer.logger, RunLogger) or not trainer.is_global_zero:
        return nullcontext()
    return lock_run(Path(trainer.logger.log_dir))


def _train(cli: ShakespeareCLI) -> None:
    with _locked(cli.trainer), warnings.catch_warnings():
        # A resumed run intentionally continues in the folder of the first.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        try:
            path = cli.resumed.path if cli.resumed else None
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)
        except Terminated:
            pass
        except (ValueError, torch.cuda.OutOfMemoryError) as error:
            # Options that do not fit each other, or the memory of the device.
            raise UserError(one_line(error)) from error
        except Exception as error:
            if path is None or cli.trainer.global_step > cli.resumed_step:
                raise
            # Before the first step it is the checkpoint's fault, which can come from anybody.
            raise UserError(
                f"cannot resume from {path}: {type(error).__name__}: {one_line(error)}"
            ) from error


def main(default_config: Path | None = None) -> int:
    """Run the command; return the exit code, after one line on stderr if something went wrong."""
    prepare_console()
    try:
        cli = fit(default_config=default_config)
    except (UserError, MisconfigurationException, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except SystemExit as stopped:
        # Lightning turns a KeyboardInterrupt, such as the second Ctrl-C, into this.
        return INTERRUPTED_EXIT_CODE if stopped.code == 1 else stopped.code  # type: ignore[return-value]
    return cli.stop_on_signal.exit_code
