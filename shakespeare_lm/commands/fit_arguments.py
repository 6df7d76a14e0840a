"""What the words typed after `fit` imply: the options of the run that is resumed, the network of
the model that is fine-tuned, the recipe. They come before what is typed, so that it wins.
"""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import shakespeare_lm
from shakespeare_lm.checkpoint.reading import Checkpoint, read_checkpoint
from shakespeare_lm.checkpoint.runs import (
    LOG_FOLDER,
    Resumable,
    find_checkpoint,
    resolve_checkpoint,
)
from shakespeare_lm.data.tokenizer import decode_utf8
from shakespeare_lm.errors import UserError
from shakespeare_lm.hardware import fastest_precision
from shakespeare_lm.invocation import command_line
from shakespeare_lm.methods.networks import NETWORK_OPTIONS, trust
from shakespeare_lm.training.module import TrainingConfig
from shakespeare_lm.training.starting_model import fixed_options

_PACKAGE = Path(shakespeare_lm.__file__).parent
# Of the recipes: inside the package if installed from a wheel, next to it in the repository.
FOLDER = next(
    folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()
)
# The recipes of runs without `--config`: where 16 bits are fast, and where only float32 is.
DEFAULT = FOLDER / "default.yaml"
QUICK = FOLDER / "quick.yaml"


class Implied(NamedTuple):
    """The arguments with all that they imply."""

    words: list[str]
    resumed: Resumable | None = None  # the checkpoint, if it was read to find its options


def with_implied(arguments: list[str], default_config: str | None) -> Implied:
    """Return the arguments, which have Trainer options spelled out, with all that they imply. The
    recipe or YAML file `default_config` is for new runs without `--config`.

    Raises:
        UserError: if a recipe or checkpoint does not exist, or options exclude each other.
    """
    typed, others = _scan(arguments)
    trust(typed.network)
    _check_combination(typed)
    configs = [config_path(config) for config in typed.config]
    root = Path(typed.root or ".") / LOG_FOLDER
    implied: list[str] = []
    resumed: Resumable | None = None
    if typed.more_steps is not None and typed.ckpt_path is None:
        typed.ckpt_path = "last"
    if typed.ckpt_path == "last" and configs and (configs[-1].parent / "checkpoints").is_dir():
        typed.ckpt_path = str(configs[-1].parent)
    if typed.ckpt_path is not None:
        others.append(f"--ckpt_path={typed.ckpt_path}")
    resumes = typed.ckpt_path not in (None, "null")
    if resumes and not configs and "--help" not in arguments:
        resumed = resolve_checkpoint(typed.ckpt_path, root)
        if resumed.config_file is not None:
            configs = [resumed.config_file]
        else:
            implied = _options_to_resume(resumed.checkpoint)
    elif typed.init_from is not None:
        implied = _options_to_start(read_checkpoint(find_checkpoint(typed.init_from, root)))
    if not configs and default_config is not None:
        configs = [config_path(default_config)]
    return Implied([*(f"--config={path}" for path in configs), *implied, *others], resumed)


def default_recipe(arguments: list[str]) -> Path:
    """Return the YAML file of a new run without `--config`, for about a minute on two CPU cores:
    `default`, or `quick` in float32, which is two to three times as slow.
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


def recipe_names() -> list[str]:
    """Return the names of all recipes, the default first."""
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    return ["default", *sorted(names - {"default"})]


def config_path(config: str) -> Path:
    """Return the path of a YAML file: the one given, or that of a recipe by its name.

    Raises:
        UserError: if there is no such file, or it cannot be read as UTF-8.
    """
    path = Path(config)
    if not path.is_file():
        if config not in recipe_names():
            raise UserError(
                f"config is {config!r}: expected a YAML file, or one of the recipes: "
                f"{', '.join(recipe_names())}"
            )
        path = FOLDER / f"{config}.yaml"
    try:
        decode_utf8(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return path


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
    parser.add_argument("--model.network", dest="network", default="")
    parser.add_argument("--init_from")
    parser.add_argument("--trainer.default_root_dir", dest="root")
    parser.add_argument("--trainer.max_steps", dest="max_steps")
    return parser.parse_known_args(arguments)[0], others


def _options_to_start(checkpoint: Checkpoint) -> list[str]:
    """Return the options that a checkpoint's weights depend on, and its optimizer: not every one
    fits every network.
    """
    options = fixed_options(checkpoint.config)
    stored = checkpoint.content["hyper_parameters"]
    if "optimizer" in stored:
        options["optimizer"] = stored["optimizer"]
    if checkpoint.config.network == "bigram":
        options["characters_ahead"] = 1  # more in the default recipe, for transformers only
    return _as_arguments(options, checkpoint.config.context_length)


def _options_to_resume(checkpoint: Checkpoint) -> list[str]:
    """Return all options of the model in a checkpoint that lies outside the folder of its run."""
    stored = checkpoint.content["hyper_parameters"]
    options = {name: getattr(checkpoint.config, name) for name in NETWORK_OPTIONS}
    names = [field.name for field in fields(TrainingConfig)]
    options |= {name: stored[name] for name in names if name in stored}
    seed = f"--seed_everything={stored.get('seed', 1337)}"
    return [seed, *_as_arguments(options, checkpoint.config.context_length)]


def _as_arguments(options: dict[str, object], context_length: int) -> list[str]:
    """Return options of the model as command-line arguments."""
    words = {f"model.{name}": value for name, value in options.items()}
    words.pop("model.context_length", None)  # which is linked to the data's
    words["data.context_length"] = context_length
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in words.items()
    ]
