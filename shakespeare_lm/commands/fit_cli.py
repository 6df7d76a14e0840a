"""Lightning's command line with this project's classes, options and defaults; it makes a Trainer, a
model and a data module that fit each other.
"""

import argparse
import glob
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from shakespeare_lm.checkpoint.origin import find_origin
from shakespeare_lm.checkpoint.runs import LOG_FOLDER, Resumable, Run, find_checkpoint
from shakespeare_lm.checkpoint.starting_model import start_from
from shakespeare_lm.commands import recipes
from shakespeare_lm.commands.fit_parser import FitParser, spell_out, typed_value
from shakespeare_lm.commands.generations import Chain
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.errors import UserError, check_at_least, check_positive, check_type, one_line
from shakespeare_lm.hardware import available_accelerators, fastest_precision
from shakespeare_lm.invocation import command_line
from shakespeare_lm.methods.distillation import find_teachers
from shakespeare_lm.methods.import_path import trust
from shakespeare_lm.training.checkpointing import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from shakespeare_lm.training.history import ValidationHistory
from shakespeare_lm.training.interim_validation import InterimValidation
from shakespeare_lm.training.module import ModelConfig, ShakespeareLM
from shakespeare_lm.training.pictures import Pictures
from shakespeare_lm.training.progress import ProgressBar, Throughput
from shakespeare_lm.training.run_logger import RunConfig, RunLogger, logger_of_run
from shakespeare_lm.training.run_record import RunRecord
from shakespeare_lm.training.samples import SampleText
from shakespeare_lm.training.step_metrics import StepMetrics
from shakespeare_lm.training.stopping import (
    RunTimer,
    StopOnDivergence,
    StopOnSignal,
    StopWithoutImprovement,
    ValidationSteps,
)
from shakespeare_lm.training.summary import RunDescription
from shakespeare_lm.training.tensorboard_layout import StepAxis, TensorBoardTabs

_DESCRIPTION = (
    "Train a character-level transformer. Trainer options have short names too: --max_steps 500 is "
    "--trainer.max_steps 500, --accelerator gpu is --trainer.accelerator gpu."
)
_TRAINER_DEFAULTS = {
    "max_steps": 1250,
    "val_check_interval": 625,
    "check_val_every_n_epoch": None,  # so that val_check_interval counts steps across epochs
    "log_every_n_steps": 10,  # fewer than the bundled scene has batches
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 1.0,
    "enable_model_summary": False,  # `RunDescription` prints one line
}


class ShakespeareCLI(LightningCLI):
    """LightningCLI with this project's classes and defaults. The recipe or YAML file
    `default_config` is for new runs without `--config`.
    """

    def __init__(self, arguments: list[str], default_config: str | None = None) -> None:
        self._default_config = default_config
        self.best, self.last = BestCheckpoint(), LastCheckpoint()
        self.history = ValidationHistory()
        usage = f"{command_line('fit')} [--config NAME] [options]"
        super().__init__(
            ShakespeareLM, ShakespeareDataModule, run=False, seed_everything_default=1337,
            save_config_callback=RunConfig, save_config_kwargs={"overwrite": True},
            parser_class=FitParser, parser_kwargs={"description": _DESCRIPTION, "usage": usage},
            auto_configure_optimizers=False, args=spell_out(arguments),
        )  # fmt: skip

    @property
    def resumed(self) -> Resumable | None:
        """The checkpoint that the run resumes from; None for a new run."""
        return self.origin.resumed

    @property
    def run(self) -> Run | None:
        """The run, if it has a folder."""
        logger = self.trainer.logger
        return logger.run if isinstance(logger, RunLogger) else None

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """Return the parser, which has its own way with `--config`."""
        return self.parser_class(**options)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's options first, so that the help starts with them."""
        parser.add_lightning_class_args(ShakespeareLM, "model")
        parser.add_lightning_class_args(ShakespeareDataModule, "data")
        parser.add_class_arguments(SampleText, "sample")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in _TRAINER_DEFAULTS.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        # fmt: off
        add("--traceback", action="store_true", help="show where an error happened")
        add("--name", type=str, default="", help="name of the run: lightning_logs/NAME/version_N")
        add("--size", type=str | None, default=None,
            help="layers, heads, width and learning rate by one word: " + ", ".join(recipes.SIZES))
        add("--ckpt_path", type=str | None, default=None,
            help="resume, with the options of that run: a checkpoint, the folder of a run, or last "
            "(the newest run)")
        add("--more_steps", type=int | None, default=None,
            help="resume (from last if no --ckpt_path is given) for this many steps, with a new "
            "decay of the learning rate")
        add("--init_from", type=str | None, default=None,
            help="start with the weights of this checkpoint or run, on any text")
        add("--generations", type=int | None, default=None,
            help="train the recipe this many times, each run taught by the one before, with the "
            "share --model.distillation (or 0.5); max_time and early_stopping count for each run")
        add("--early_stopping", type=int | None, default=None,
            help="stop after this many validations without a lower val_loss")
        add("--small_best", type=bool, default=False,
            help="leave the state of the training out of best.ckpt")
        add("--pictures", type=bool, default=True,
            help="show attention, next characters, loss by position and embeddings in TensorBoard "
            "at each validation")
        add("--compare_with_ngrams", type=bool, default=True,
            help="say at the end which n-gram models are better and worse (texts up to 10 MB)")
        # fmt: on
        # The old name of window_order: known, so that `parse_arguments` can name the new one.
        add("--data.sampling", type=str, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.link_arguments("data.context_length", "model.context_length")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("data.vocabulary", "model.vocabulary", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the words three times: which files they name, what they say with these files, and
        that on top of the options of the run or model that the run begins from.
        """
        words = list(args or [])
        for word in words:
            if word != word.encode("utf-8", "ignore").decode():
                parser.error(f"{word!r} is not UTF-8")
        question = [word for word in words if not word.startswith("--print_config")]
        parser.parse_args(question)
        assert isinstance(parser, FitParser)
        named = [recipes.config_path(name) for name in parser.config_files]
        typed = self._parse(question, named)
        _check_combination(typed, words)
        # Typed, or in a YAML file that was named.
        trust(*(typed["model"][name] for name in ("network", "optimizer", "objective")))
        self.chain, settled = None, []
        if typed["model"]["teachers"]:
            # The files, because which is the best of a run, or the newest run, can change.
            files = find_teachers(typed["model"]["teachers"], find_checkpoint)
            typed["model"]["teachers"] = ",".join(map(str, files))
            settled = [f"--model.teachers={typed['model']['teachers']}"]
        default = [recipes.config_path(self._default_config)] if self._default_config else []
        begin = typed["ckpt_path"] or ("last" if typed["more_steps"] is not None else None)
        root = Path(typed["trainer"]["default_root_dir"] or ".") / LOG_FOLDER
        if (typed["generations"] or 1) > 1 and words == question:
            self.chain, named = Chain(typed, root), named or default
            settled, begin = self.chain.next()
        words += settled
        known = {field.name for field in fields(ModelConfig)}
        self.origin = find_origin(begin, typed["init_from"], named, root, known)
        configs = self.origin.configs or default
        # The config.yaml of a run that started from a model has its options already.
        repeats = self.origin.initial is not None and typed_value("init_from", words) is None
        implied = [] if repeats else self.origin.arguments
        if typed["size"] is not None:
            recipe = self._parse(implied, configs)
            implied = [*implied, *recipes.options_of_size(typed["size"], recipe["model"])]
        # In the config.yaml that the run leaves are its options instead.
        self.config = self._parse([*implied, *words, "--size=null"], configs)
        self.recipe = ", ".join(map(recipes.recipe_name, configs))
        self.is_default = not named and self.resumed is None and bool(configs)
        if self.resumed is not None and self.resumed.run is not None and not named:
            self.recipe = self.resumed.run.recipe
        self._check()

    def _parse(self, words: list[str], configs: list[Path]) -> Any:
        # An empty file is an error for jsonargparse.
        files = [glob.escape(str(path)) for path in configs if recipes.read_options(path)]
        self.parser.default_config_files = files
        config = self.parser.parse_args(words)
        try:
            self.parser.validate(config, skip_unset=False)  # null in a YAML file is not, otherwise
        except TypeError as error:
            self.parser.error(str(error))
        if root := config["trainer"]["default_root_dir"]:
            if "://" in str(root):
                raise UserError(f"default_root_dir is {root}: expected a folder of this machine")
            config["trainer"]["default_root_dir"] = os.path.expanduser(root)
        return config

    def _check(self) -> None:
        if "sampling" in self.config["data"]:
            self.parser.error("data.sampling was renamed: use data.window_order")
        seed = self.config["seed_everything"]
        check_type(int, seed_everything=seed)
        if not 0 <= seed < 1 << 32:
            raise UserError(f"seed_everything is {seed}: expected 0 <= seed_everything < 2^32")
        for name in ("more_steps", "early_stopping", "generations"):
            if self.config[name] is not None:
                check_at_least(1, **{name: self.config[name]})
        if self.chain is not None:
            self.chain.check(self.config)

    def before_instantiate_classes(self) -> None:
        """Adapt the options to the checkpoint that the run resumes or starts from."""
        config = self.config
        # Not in the config.yaml that the run leaves, which repeats the run from its start.
        config["ckpt_path"] = config["generations"] = None
        more_steps, config["more_steps"] = config["more_steps"], None
        if self.origin.initial is not None:
            config["init_from"] = str(self.origin.initial_path)
            config["data"]["known_characters"] = self.origin.initial.tokenizer.vocabulary
        self._restarted = more_steps is not None
        if more_steps is not None:
            assert self.resumed is not None
            config["trainer"]["max_steps"] = self.resumed.step + more_steps
            config["trainer"]["max_epochs"] = config["model"]["decay_steps"] = None
            # None at step 0: a run that was killed before its first validation begins anew.
            config["model"]["restart_step"] = self.resumed.step or None

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, ModuleNotFoundError) as error:
            if (mistake := _as_user_error(error)) is None:
                raise
            raise mistake from error
        initial, path = self.origin.initial, self.config["init_from"]
        if initial is not None:
            start_from(initial, path, self.model.network, self.model.config, self.model.tokenizer)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init["trainer"]
        _check_trainer_options(config)
        if not isinstance(config["logger"], list | Logger):
            root, writes = Path(config["default_root_dir"] or "."), config["logger"] is not False
            kwargs["logger"] = logger_of_run(root, self.config["name"], self.resumed, writes)
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
        self.save_config_kwargs["recipe"] = self.recipe
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise _rejected(config, error) from error
        # After the Trainer is made, which would put those that save checkpoints last.
        trainer.callbacks.append(self.config_init["sample"])  # type: ignore[attr-defined]
        if self.config["pictures"]:
            trainer.callbacks.append(Pictures())  # type: ignore[attr-defined]
        return trainer

    def _callbacks(self, config: Mapping[str, Any]) -> list[Callback]:
        """Return all callbacks but those that only show something, which come last."""
        saves = config["enable_checkpointing"] is not False
        self.stop_on_signal = StopOnSignal(self.last if saves else None)
        self.timer = RunTimer(config["max_time"])
        if (max_time := self.timer.time_remaining()) is not None:
            check_positive(max_time=max_time)
        reason = " (none was named)" if self.is_default else ""
        throughput = Throughput()
        callbacks: list[Callback] = [RunDescription(self.recipe, reason), throughput]
        callbacks += [InterimValidation(throughput), StepMetrics()]
        callbacks += [self.history, RunRecord(throughput), TensorBoardTabs(self.history)]
        callbacks += [ValidationSteps(), StopOnDivergence(), self.stop_on_signal, self.timer]
        if self.config["early_stopping"] is not None:
            patience = self.config["early_stopping"]
            callbacks.append(StopWithoutImprovement(patience, self._restarted))
        callbacks.append(StepAxis())  # after those that stop a run
        has_bar = any(isinstance(one, LightningProgressBar) for one in _listed(config["callbacks"]))
        if config["enable_progress_bar"] is not False and not has_bar:
            callbacks.append(ProgressBar())
        if saves:
            callbacks += [self.best, self.last]
        return callbacks


class ReadOptions(ShakespeareCLI):
    """Reads and checks the options of a run, and makes nothing."""

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        if self.chain is not None:
            raise UserError("a study trains single runs: leave --generations out")
        # Finds what is wrong with networks, objectives and optimizers of the user's own, too.
        ShakespeareLM("ab", **self.config["model"]).build_optimizer()
        _check_trainer_options(self.config["trainer"])

    def instantiate_classes(self) -> None:
        pass


def _check_combination(typed: Mapping[str, Any], words: list[str]) -> None:
    """Refuse options that would have no effect, because of another one or typed as JSON."""
    continues = typed["ckpt_path"] is not None or typed["more_steps"] is not None
    if typed_value("init_from", words) is not None and continues:
        raise UserError(
            "--init_from starts a new run, and --ckpt_path and --more_steps continue one: leave "
            "one of them out"
        )
    for name in ("trainer.max_steps", "trainer.max_epochs", "model.decay_steps"):
        if typed["more_steps"] is not None and typed_value(name, words) is not None:
            short = name.removeprefix("trainer.")
            raise UserError(f"--more_steps and --{short} both say when the run ends: leave one out")
    for group in recipes.GROUPS:  # typed as a whole: JSON, or the name of a file
        value = typed_value(group, words) or "{}"
        is_file = os.path.isfile(value)
        options = recipes.read_options(Path(value)) if is_file else yaml.safe_load(value)
        recipes.check_links({group: options}, f"--{group}")


def _check_trainer_options(config: Mapping[str, Any]) -> None:
    """Refuse what Lightning accepts, but divides by zero, trains nothing, or never ends."""
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if config[name] == 0:
            raise UserError(f"{name} is 0: nothing to train; expected a value > 0")
    if config["limit_val_batches"] == 0:
        reason = "because checkpoints are chosen by val_loss"
        raise UserError(f"limit_val_batches is 0: expected a value > 0, {reason}")
    if isinstance(config["val_check_interval"], int | float):  # or a time
        check_positive(val_check_interval=config["val_check_interval"])
    minima = {"gradient_clip_val": 0, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1}
    for name, minimum in minima.items():
        if config[name] is not None:
            check_at_least(minimum, **{name: config[name]})


def _rejected(config: Mapping[str, Any], error: Exception) -> UserError:
    reason = one_line(error)
    if any(word in reason for word in ("accelerator", "backend", "devices")):
        asked = f"--accelerator {config['accelerator']} --devices {config['devices']}"
        has = ", ".join(available_accelerators())
        reason = f"{asked}: {reason} This machine has: {has}"
    return UserError(f"the Trainer rejects these options: {reason}")


def _as_user_error(error: Exception) -> UserError | None:
    """Return what a user can correct among an error's causes, in one line: a wrong value, or a
    missing package of a class that the user chose, such as a logger.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError | ModuleNotFoundError):
        cause = cause.__cause__ or cause.__context__
    if cause is None or isinstance(cause, UserError):
        return cause
    return UserError(one_line(cause)[:500])


def _listed(plugins: Any) -> list[Any]:
    return list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins else []
