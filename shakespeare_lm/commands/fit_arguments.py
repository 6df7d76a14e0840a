"""What the words typed after `fit` imply: the options of the run that is resumed, the network of
the model that is fine-tuned, the default recipe.

Enters: words typed. Leaves: the same words, after those that they imply, so that they win.
"""

import argparse
import json
from pathlib import Path

from shakespeare_lm.checkpoint.reading import read_checkpoint
from shakespeare_lm.checkpoint.runs import (
    LOG_FOLDER,
    find_checkpoint,
    find_run_config,
)
from shakespeare_lm.commands.recipes import config_path
from shakespeare_lm.training.initial_weights import fixed_options


def with_implied(arguments: list[str], default_config: str | None) -> list[str]:
    """Return the arguments with all that they imply.

    Args:
        arguments: as typed, with Trainer options spelled out.
        default_config: recipe or YAML file of a new run without `--config`.

    Raises:
        UserError: if a recipe or checkpoint does not exist.
    """
    typed, others = _scan(arguments)
    configs = [config_path(config) for config in typed.config]
    root = Path(typed.root or ".") / LOG_FOLDER
    implied: list[str] = []
    if typed.more_steps is not None and typed.ckpt_path is None:
        typed.ckpt_path = "last"
    if typed.ckpt_path == "last" and configs and (configs[-1].parent / "checkpoints").is_dir():
        typed.ckpt_path = str(configs[-1].parent)
    if not configs:
        run_config = find_run_config(typed.ckpt_path, root) if typed.ckpt_path else None
        if run_config is not None:
            configs = [run_config]
        elif default_config is not None:
            implied.append(f"--config={config_path(default_config)}")
    if typed.ckpt_path is not None:
        others.append(f"--ckpt_path={typed.ckpt_path}")
    elif typed.init_from is not None:
        implied += _network_options(typed.init_from, root)
    return [*implied, *(f"--config={path}" for path in configs), *others]


def _scan(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that imply others, and the arguments without configs and checkpoint."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    parser.add_argument("--ckpt_path")
    others = parser.parse_known_args(arguments)[1]
    parser.add_argument("--more_steps")
    parser.add_argument("--init_from")
    parser.add_argument("--trainer.default_root_dir", dest="root")
    return parser.parse_known_args(arguments)[0], others


def _network_options(given: str, root: Path) -> list[str]:
    """Return the options of the network of a checkpoint, as one would type them."""
    config = read_checkpoint(find_checkpoint(given, root)).config
    words = {f"model.{name}": value for name, value in fixed_options(config).items()}
    words.pop("model.context_length", None)  # which is linked to the data's
    words["data.context_length"] = config.context_length
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in words.items()
    ]
