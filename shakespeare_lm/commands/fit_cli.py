"""Lightning's command line with this project's classes, options and defaults.

Enters: words typed. Leaves: a Trainer, a model and a data module that fit each other, and the
checkpoint that the run resumes or starts from.
"""

import argparse
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import (
    LOG_FOLDER,
    Resumable,
    find_checkpoint,
    resolve_checkpoint,
)
from shakespeare_lm.commands.fit_arguments import with_implied
from shakespeare_lm.commands.trainer_options import (
    TRAINER_DEFAULTS,
    check_trainer_options,
    expand_short_names,
)
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError, check_at_least, one_line
from shakespeare_lm.hardware import available_accelerators, fastest_precision
from shakespeare_lm.invocation import command_line
from shakespeare_lm.training.checkpointing import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
)
from shakespeare_lm.training.history import ValidationHistory
from shakespeare_lm.training.hparams_tab import HparamsTab
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.pictures import Pictures
from shakespeare_lm.training.progress import ProgressBar, SampleText, Throughput
from shakespeare_lm.training.run_folder import RunConfig, check_run_name, logger_of_run
from shakespeare_lm.training.starting_model import start_from
from shakespeare_lm.training.step_metrics import StepMetrics
from shakespeare_lm.training.stopping import (
    FinalValidation,
    RunTimer,
    StopOnDivergence,
    StopOnSignal,
    StopWithoutImprovement,
)
from shakespeare_lm.training.summary import RunDescription
from shakespeare_lm.training.teachers import teacher_paths
from shakespeare_lm.training.tensorboard_layout import StepAxis, TensorBoardLayout

_DESCRIPTION = (
    "Train a character-level transformer. Trainer options have short names too: --max_steps 500 is "
    "--trainer.max_steps 500, --accelerator gpu is --trainer.accelerator gpu."
)
_TRAINER_OPTIONS = tuple(inspect.signature(Trainer).parameters)


class ShakespeareCLI(LightningCLI):
    """LightningCLI with this project's classes and defaults.

    Args:
        arguments: as typed; `sys.argv` if not given.
        default_config: YAML file or recipe to use if no `--config` is given and no run is resumed.
    """

    def __init__(
        self, arguments: list[str] | None = None, default_config: str | None = None
    ) -> None:
        self._arguments = sys.argv[1:] if arguments is None else arguments
        self._default_config = default_config
        self.best = BestCheckpoint()
        self.last = LastCheckpoint()
        self.history = ValidationHistory()
        self.resumed: Resumable | None = None
        self._initial: Checkpoint | None = None
        self._restarted = False
        self.last_is_older = False
        super().__init__(
            ShakespeareLM,
            ShakespeareDataModule,
            run=False,
            seed_everything_default=1337,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "description": _DESCRIPTION,
                "usage": f"{command_line('fit')} [--config FILE] [options]",
            },
            auto_configure_optimizers=False,
        )

    @property
    def resumed_step(self) -> int:
        """The step of the checkpoint that the run resumes from; 0 for a new run."""
        return self.resumed.step if self.resumed else 0

    def is_recipe(self, recipe: Path) -> bool:
        """Return whether the options begin with this YAML file, and no other."""
        return [str(path) for path in self.config["config"] or []] == [str(recipe)]

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's options first, so that the help starts with them."""
        parser.add_lightning_class_args(ShakespeareLM, "model")
        parser.add_lightning_class_args(ShakespeareDataModule, "data")
        parser.add_lightning_class_args(SampleText, "sample")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        add("--name", type=str, default="", help="name of the run: lightning_logs/NAME/version_N")
        add(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="resume, with the options of that run: a checkpoint, the folder of a run, or last "
            "(the newest run)",
        )
        add(
            "--more_steps",
            type=int | None,
            default=None,
            help="resume (from last if no --ckpt_path is given) for this many steps, with a new "
            "decay of the learning rate",
        )
        add(
            "--init_from",
            type=str | None,
            default=None,
            help="start with the weights of this checkpoint or run, on any text",
        )
        add(
            "--early_stopping",
            type=int | None,
            default=None,
            help="stop after this many validations without a lower val_loss",
        )
        add(
            "--small_best",
            type=bool,
            default=False,
            help="leave the state of the training out of best.ckpt",
        )
        add(
            "--pictures",
            type=bool,
            default=True,
            help="show attention, next characters, loss by position and embeddings in TensorBoard "
            "at each validation",
        )
        add(
            "--compare_with_ngrams",
            type=bool,
            default=True,
            help="say at the end which n-gram models are better and worse (texts up to 10 MB)",
        )
        # The old name of window_order: known, so that `parse_arguments` can name the new one.
        add("--data.sampling", type=str, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.link_arguments("data.context_length", "model.context_length")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("data.vocabulary", "model.vocabulary", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        arguments = expand_short_names(self._arguments, _TRAINER_OPTIONS)
        words, self.resumed = with_implied(arguments, self._default_config)
        self.config = parser.parse_args(words)
        if "sampling" in self.config["data"]:
            parser.error("data.sampling was renamed: use data.window_order")
        seed = self.config["seed_everything"]
        if not 0 <= int(seed) < 1 << 32:
            raise UserError(f"seed_everything is {seed}: expected 0 <= seed_everything < 2^32")
        check_run_name(self.config["name"])
        for name in ("more_steps", "early_stopping"):
            if self.config[name] is not None:
                check_at_least(1, **{name: self.config[name]})

    def before_instantiate_classes(self) -> None:
        """Read the checkpoint that the run resumes or starts from, and adapt the options to it."""
        config, logs = self.config, self._root / LOG_FOLDER
        # Not in the config.yaml that the run leaves, which repeats the run from its start.
        ckpt_path, config["ckpt_path"] = config["ckpt_path"], None
        more_steps, config["more_steps"] = config["more_steps"], None
        if ckpt_path is not None:
            # A --config file can set default_root_dir, so it is resolved only now.
            self.resumed = self.resumed or resolve_checkpoint(ckpt_path, logs)
            found = self.resumed.path
            self.last_is_older = found.name == "best.ckpt" and found != Path(ckpt_path)
        elif config["init_from"] is not None:
            config["init_from"] = str(find_checkpoint(config["init_from"], logs))
            self._initial = read_checkpoint(config["init_from"])
            config["data"]["known_characters"] = self._initial.tokenizer.vocabulary
        if self.resumed is None and config["model"]["teachers"]:
            # The files, because which is the best of a run, or the newest run, can change.
            paths = teacher_paths(config["model"]["teachers"])
            config["model"]["teachers"] = ",".join(map(str, paths))
        if more_steps is not None:
            config["trainer"]["max_steps"] = self.resumed_step + more_steps
            config["trainer"]["max_epochs"] = config["model"]["decay_steps"] = None
            # None at step 0: a run that was killed before its first validation begins anew.
            config["model"]["restart_step"] = self.resumed_step or None
            self._restarted = True

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, ModuleNotFoundError) as error:
            raise _as_user_error(error) from error
        if self._initial is not None:
            start_from(self.model, self._initial, self.config["init_from"])

    @property
    def _root(self) -> Path:
        return Path(self.config["trainer"]["default_root_dir"] or ".")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init["trainer"]
        check_trainer_options(config)
        if not isinstance(config["logger"], list | Logger):
            writes = config["logger"] is not False
            kwargs["logger"] = logger_of_run(self._root, self.config["name"], self.resumed, writes)
        elif self.config["name"]:
            raise UserError("name is for the default logger: name this one with --logger.name")
        self.trainer_defaults["callbacks"] = self._callbacks(config)
        plugins = _listed(config["plugins"])
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            checkpoint_io = AtomicCheckpointIO(self.resumed, self.config["small_best"])
            kwargs["plugins"] = [*plugins, checkpoint_io]
        if config["precision"] is None and not config["plugins"]:
            kwargs["precision"] = fastest_precision(str(config["accelerator"]))
            # For the config.yaml that the run leaves, so that another machine repeats the run.
            self.config["trainer"]["precision"] = kwargs["precision"]
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise _rejected(config, error) from error

    def _callbacks(self, config: Mapping[str, Any]) -> list[Callback]:
        """Return all callbacks but `SampleText`, which Lightning adds because it has options."""
        saves = config["enable_checkpointing"] is not False
        self.stop_on_signal = StopOnSignal(self.last if saves else None)
        self.timer = RunTimer(config["max_time"])
        callbacks: list[Callback] = [RunDescription(), Throughput(), StepMetrics()]
        callbacks += [self.history, TensorBoardLayout(), HparamsTab(self.history)]
        if self.config["pictures"]:
            callbacks.append(Pictures())
        callbacks += [FinalValidation(), StopOnDivergence(), self.stop_on_signal, self.timer]
        if self.config["early_stopping"] is not None:
            patience = self.config["early_stopping"]
            callbacks.append(StopWithoutImprovement(patience, self._restarted))
        callbacks.append(StepAxis())  # after those that stop a run
        if config["enable_progress_bar"] is not False:
            callbacks.append(ProgressBar())
        if saves:
            callbacks += [self.best, self.last]
        return callbacks


def _rejected(config: Mapping[str, Any], error: Exception) -> UserError:
    reason = one_line(error)
    if any(word in reason for word in ("accelerator", "backend", "devices")):
        asked = f"--accelerator {config['accelerator']} --devices {config['devices']}"
        has = ", ".join(available_accelerators())
        reason = f"{asked}: {reason} This machine has: {has}"
    return UserError(f"the Trainer rejects these options: {reason}")


def _as_user_error(error: Exception) -> UserError:
    """Return an error of a class that the user chose, such as a logger, in one line: if it lacks a
    package, the line that names it, which is among the causes.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError | ModuleNotFoundError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, UserError):
        return cause
    return UserError(one_line(cause or error)[:500])


def _listed(plugins: Any) -> list[Any]:
    return list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins else []
