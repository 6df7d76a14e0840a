"""The command line of training: Lightning's own, with short names, links and defaults.

Enters: arguments. Leaves: a trained model in `lightning_logs/version_N/`, and what to type next.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from shakespeare_lm.checkpoint.reading import newest_readable, read_checkpoint
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.hardware import available_accelerators, fastest_precision
from shakespeare_lm.training.checkpointing import LastCheckpoint, WholeCheckpointIO
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.progress import Opening, ProgressBar, SampleText, Throughput
from shakespeare_lm.training.stopping import (
    FinalValidation,
    RunTimer,
    StepAxis,
    StopOnDivergence,
    StopOnSignal,
    Terminated,
)
from shakespeare_lm.training.summary import (
    prepare_console,
    print_resume_command,
    print_resuming,
    print_summary,
)

LOG_FOLDER = "lightning_logs"
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
    "enable_model_summary": False,  # `Opening` says it in a line
}
_TRAINER_OPTIONS = tuple(inspect.signature(Trainer).parameters)


def expand_short_names(arguments: list[str]) -> list[str]:
    """Spell out Trainer options: `--max_steps=5` becomes `--trainer.max_steps=5`."""
    full = {f"--{name}": f"--trainer.{name}" for name in _TRAINER_OPTIONS}
    full["--seed"] = "--seed_everything"
    # The name ends before a value, a nested key or the + of an appended item.
    name = re.compile(r"^--\w+(?=$|[=.+])")
    return [name.sub(lambda found: full.get(found[0], found[0]), word) for word in arguments]


class ShakespeareCLI(LightningCLI):
    """LightningCLI with this project's classes and defaults.

    Args:
        arguments: as typed; `sys.argv` if not given.
        default_config: YAML file used when no `--config` is given.
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
        self.resumed_from: Path | None = None
        self.resumed_step = 0
        super().__init__(
            ShakespeareLM,
            ShakespeareDataModule,
            run=False,
            seed_everything_default=1337,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "description": _DESCRIPTION,
                "usage": "fit.py [--config FILE] [options]",
            },
            auto_configure_optimizers=False,
        )

    def _callbacks(self, config: Mapping[str, Any]) -> list[Callback]:
        """Return all but `SampleText`, which Lightning adds because it has options."""
        saves = config["enable_checkpointing"] is not False
        self.stop_on_signal = StopOnSignal(self.last if saves else None)
        self.timer = RunTimer(config["max_time"])
        callbacks: list[Callback] = [Opening(), StepAxis(), Throughput()]
        callbacks += [FinalValidation(), StopOnDivergence(), self.stop_on_signal, self.timer]
        if config["enable_progress_bar"] is not False:
            callbacks.append(ProgressBar())
        if saves:
            callbacks += [self.best, self.last]
        return callbacks

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's own options first: the help then starts with them."""
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
            help="go on from this checkpoint: a path, or last (of the newest run)",
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
        seed = self.config["seed_everything"]
        if not 0 <= int(seed) < 1 << 32:
            raise UserError(f"seed_everything is {seed}: accepted is 0 or more and less than 2^32")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init["trainer"]
        root = Path(config["default_root_dir"] or ".")
        # Taken out of the config that the run leaves: that is for repeating it from its start.
        ckpt_path, self.config["ckpt_path"] = self.config["ckpt_path"], None
        self.resumed_from, self.resumed_step = resolve_checkpoint(ckpt_path, root / LOG_FOLDER)
        if config["logger"] in (None, True):
            kwargs["logger"] = _logger(root, self.resumed_from, self.resumed_step)
        self.trainer_defaults["callbacks"] = self._callbacks(config)
        if not any(isinstance(plugin, CheckpointIO) for plugin in _listed(config["plugins"])):
            kwargs["plugins"] = [*_listed(config["plugins"]), WholeCheckpointIO()]
        if config["precision"] is None and not config["plugins"]:
            kwargs["precision"] = fastest_precision(str(config["accelerator"]))
            # For the config that the run leaves: another machine then repeats it as it was.
            self.config["trainer"]["precision"] = kwargs["precision"]
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            reason = one_line(error)
            if any(word in reason for word in ("accelerator", "backend", "devices")):
                asked = f"--accelerator {config['accelerator']} --devices {config['devices']}"
                has = ", ".join(available_accelerators())
                reason = f"{asked}: {reason} This machine has: {has}"
            raise UserError(f"the Trainer refuses these options: {reason}") from error


def _listed(plugins: Any) -> list[Any]:
    return list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins else []


def resolve_checkpoint(ckpt_path: str | None, logs: Path) -> tuple[Path | None, int]:
    """Return the checkpoint to go on from, and its step: "last" is the newest run's under `logs`.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    if ckpt_path is None:
        return None, 0
    path = newest_readable(logs) if ckpt_path == "last" else ckpt_path
    return Path(path), read_checkpoint(path).get("global_step", 0)


def _logger(root: Path, resumed_from: Path | None, resumed_step: int) -> TensorBoardLogger:
    """Log to a new version's folder, or, for a resumed run of this root, go on in its own."""
    version, purge_step = None, None
    if resumed_from is not None:
        folder = resumed_from.resolve().parent.parent
        match = re.fullmatch(r"version_(\d+)", folder.name)
        if match and folder.parent == (root / LOG_FOLDER).resolve():
            version = int(match[1])
            # What the first run still logged after this checkpoint, the resumed run will log again.
            purge_step = resumed_step
    return TensorBoardLogger(
        root, LOG_FOLDER, version=version, default_hp_metric=False, purge_step=purge_step
    )


def fit(arguments: list[str] | None = None, default_config: Path | None = None) -> ShakespeareCLI:
    """Train as the arguments say; return the command line with its trainer, model and data module.

    Raises:
        UserError: for what the user can put right.
    """
    cli = ShakespeareCLI(arguments, default_config)
    trainer, data = cli.trainer, cli.datamodule
    # What can be wrong with the text and the schedule shows here, before a run's folder is made.
    data.setup()
    cli.model.total_steps(trainer.max_steps)
    if trainer.limit_val_batches == 0:
        raise UserError("limit_val_batches is 0: checkpoints are chosen by val_loss, so give more")
    if cli.resumed_from is not None and trainer.is_global_zero:
        print_resuming(cli.resumed_from, cli.resumed_step, trainer.max_steps)
    _train(cli)
    interrupted = cli.stop_on_signal.number > 0
    if trainer.is_global_zero:
        if interrupted or cli.timer.is_over:
            print_resume_command(cli.last.path, trainer.global_step)
        print_summary(cli.best, data.vocabulary)
    if data.test_fraction > 0 and not interrupted:
        best = cli.best.best_model_path or None
        trainer.test(cli.model, datamodule=data, ckpt_path=best, weights_only=True)
    return cli


def _train(cli: ShakespeareCLI) -> None:
    with warnings.catch_warnings():
        # A resumed run goes on in the folder of the first, and that is as it should be.
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        try:
            cli.trainer.fit(
                cli.model, datamodule=cli.datamodule, ckpt_path=cli.resumed_from, weights_only=True
            )
        except Terminated:
            pass
        except (ValueError, torch.cuda.OutOfMemoryError) as error:
            # Options that do not fit each other, or the device.
            raise UserError(one_line(error)) from error
        except Exception as error:
            if cli.resumed_from is None or cli.trainer.global_step > cli.resumed_step:
                raise
            # Before the first step that is the checkpoint's fault: it can come from anybody.
            raise UserError(
                f"cannot go on from {cli.resumed_from}: {type(error).__name__}: {one_line(error)}"
            ) from error


def main(default_config: Path | None = None) -> int:
    """Run `fit` as a program: return the exit code, with one line on stderr for what went wrong."""
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
