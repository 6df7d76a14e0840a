"""Options of Lightning's Trainer: their short names, this project's defaults, and values that
Lightning accepts but should not.

Enters: words typed, and the Trainer's options. Leaves: the same, spelled out and checked.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from shakespeare_lm.errors import UserError, check_at_least, check_positive

TRAINER_DEFAULTS = {
    "max_steps": 1250,
    "val_check_interval": 625,
    "check_val_every_n_epoch": None,  # so that val_check_interval counts steps across epochs
    "log_every_n_steps": 10,  # fewer than the bundled scene has batches
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 1.0,
    "enable_model_summary": False,  # `RunDescription` prints one line
}


def expand_short_names(arguments: Iterable[str], trainer_options: Iterable[str]) -> list[str]:
    """Spell out Trainer options: `--max_steps=5` becomes `--trainer.max_steps=5`."""
    full = {f"--{name}": f"--trainer.{name}" for name in trainer_options}
    full["--seed"] = "--seed_everything"
    # The name ends before a value, a nested key, or the + that appends to a list.
    name = re.compile(r"^--\w+(?=$|[=.+])")
    return [name.sub(lambda found: full.get(found[0], found[0]), word) for word in arguments]


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
