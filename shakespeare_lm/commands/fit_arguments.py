"""What the words typed after `fit` imply: the options of the run that is resumed, the network of
the model that is fine-tuned, the default recipe.

Enters: words typed. Leaves: the same words, after those that they imply, so that what is typed
wins.
"""

import argparse
import json
from dataclasses import fields
from pathlib import Path

from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import (
    LOG_FOLDER,
    find_checkpoint,
    find_run_config,
)
from shakespeare_lm.commands.recipes import FOLDER, config_path
from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import fastest_precision
from shakespeare_lm.invocation import command_line
from shakespeare_lm.training.config import TrainingConfig
from shakespeare_lm.training.initial_weights import fixed_options

# The recipes of runs without `--config`: where 16 bits are fast, and where only float32 is.
DEFAULT = FOLDER / "default.yaml"
QUICK = FOLDER / "quick.yaml"


def with_implied(arguments: list[str], default_config: str | None) -> list[str]:
    """Return the arguments with all that they imply.

    Args:
        arguments: as typed, with Trainer options spelled out.
        default_config: recipe or YAML file of a new run without `--config`.

    Raises:
        UserError: if a recipe or checkpoint does not exist, or options exclude each other.
    """
    typed, others = _scan(arguments)
    _check_combination(typed)
    configs = [config_path(config) for config in typed.config]
    root = Path(typed.root or ".") / LOG_FOLDER
    implied: list[str] = []
    if typed.more_steps is not None and typed.ckpt_path is None:
        typed.ckpt_path = "last"
    if typed.ckpt_path == "last" and configs and (configs[-1].parent / "checkpoints").is_dir():
        typed.ckpt_path = str(configs[-1].parent)
    if typed.ckpt_path is not None:
        others.append(f"--ckpt_path={typed.ckpt_path}")
        run_config = find_run_config(typed.ckpt_path, root)
        if run_config is not None and not configs:
            configs = [run_config]
        elif not configs and Path(typed.ckpt_path).is_file():
            implied = _options(read_checkpoint(typed.ckpt_path), optimizer=True)
    elif typed.init_from is not None:
        implied = _options(read_checkpoint(find_checkpoint(typed.init_from, root)))
    if not configs and default_config is not None:
        configs = [config_path(default_config)]
    return [*(f"--config={path}" for path in configs), *implied, *others]


def default_recipe(arguments: list[str]) -> Path:
    """Return the YAML file of a new run without `--config`, which takes about a minute on two CPU
    cores: `default`, or `quick` where the run multiplies in float32, which is two to three times
    as slow.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--precision", "--trainer.precision")
    parser.add_argument("--accelerator", "--trainer.accelerator", default="auto")
    try:
        typed = parser.parse_known_args(arguments)[0]
    except argparse.ArgumentError:  # an option without its value: the real parser will name it
        return DEFAULT
    precision = typed.precision or fastest_precision(typed.accelerator)
    return QUICK if precision.startswith(("32", "64")) else DEFAULT


def _check_combination(typed: argparse.Namespace) -> None:
    """Refuse options of which one would have no effect."""
    if typed.init_from is not None and (typed.ckpt_path or typed.more_steps):
        raise UserError(
            "--init_from starts a new run, and --ckpt_path and --more_steps continue one: leave "
            "one of them out"
        )
    if typed.more_steps is not None and typed.max_steps is not None:
        raise UserError("--more_steps and --max_steps both say when the run ends: leave one out")


def _scan(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that imply others, and the arguments without configs and checkpoint."""
    usage = f"{command_line('fit')} [--config FILE] [options]"
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    parser.add_argument("--ckpt_path")
    others = parser.parse_known_args(arguments)[1]
    parser.add_argument("--more_steps")
    parser.add_argument("--init_from")
    parser.add_argument("--trainer.default_root_dir", dest="root")
    parser.add_argument("--trainer.max_steps", dest="max_steps")
    return parser.parse_known_args(arguments)[0], others


def _options(checkpoint: Checkpoint, optimizer: bool = False) -> list[str]:
    """Return the options of a checkpoint's network, and of its optimizer, as one would type them.

    Without the optimizer's options, still its name: not every optimizer fits every network.
    """
    stored = checkpoint.content["hyper_parameters"]
    words = {f"model.{name}": value for name, value in fixed_options(checkpoint.config).items()}
    for field in fields(TrainingConfig):
        if field.name in stored and (optimizer or field.name == "optimizer"):
            words[f"model.{field.name}"] = stored[field.name]
    if checkpoint.config.network == "bigram":
        words["model.characters_ahead"] = 1  # more in the default recipe, for transformers only
    if optimizer:
        words["seed_everything"] = stored.get("seed", 1337)
    words.pop("model.context_length", None)  # which is linked to the data's
    words["data.context_length"] = checkpoint.config.context_length
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in words.items()
    ]
