"""Does this run fit the checkpoint, and the data the model? Differences are named."""

import zlib
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn

from shakespeare_lm.checkpoint.reading import ADDED_OPTIONS
from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.data.splits import describe_difference
from shakespeare_lm.errors import UserError
from shakespeare_lm.methods.networks import NETWORK_OPTIONS

# Other values would have no effect on resume, or not fit the optimizer's state or the weights.
_FIXED_ON_RESUME = (
    "optimizer", "learning_rate", "muon_learning_rate", "weight_decay", "beta2", "seed",
    "characters_ahead",
)  # fmt: skip


def check_hyperparameters(stored: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise a `UserError` that names the first option that would be ignored or not fit."""
    if stored.get("vocabulary") != ours["vocabulary"]:
        raise UserError(
            "the checkpoint's vocabulary differs from that of this run's text: resume with the "
            "text of the first run"
        )
    for name in (*NETWORK_OPTIONS, *_FIXED_ON_RESUME):
        value = stored.get(name, ADDED_OPTIONS.get(name))
        if value != ours[name]:
            raise UserError(
                f"the checkpoint was trained with {name} {value!r}, but this run has "
                f"{ours[name]!r}: resume with the options of the first run (its config.yaml)"
            )


def check_processes(trainer: Trainer | None, checkpoint: Mapping[str, Any]) -> None:
    """Raise a `UserError`, in all processes, if they found different checkpoints to resume from, as
    while another run wrote one.
    """
    if trainer is None or trainer.world_size == 1:
        return
    name = f"{Path(str(trainer.ckpt_path)).resolve()} {checkpoint.get('global_step')}"
    found = zlib.crc32(name.encode())
    device = trainer.strategy.root_device
    both = [torch.tensor(value, dtype=torch.float64, device=device) for value in (found, -found)]
    largest, smallest = (trainer.strategy.reduce(value, reduce_op="max") for value in both)
    if largest != -smallest:
        raise UserError(
            "the processes found different checkpoints to resume from: give the path of one"
        )


def check_vocabulary(vocabulary: str, trainer: Trainer) -> None:
    """Raise a `UserError` that names the first id of other characters in the data and the model."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ShakespeareDataModule) or data.vocabulary == vocabulary:
        return
    pairs = enumerate(zip_longest(vocabulary, data.vocabulary, fillvalue="nothing"))
    number, (ours, theirs) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    raise UserError(
        f"the vocabulary of the data differs from the model's: id {number} is {ours!r} for the "
        f"model and {theirs!r} in the data"
    )


def warn_about_other_data(trained_on: object, trainer: Trainer) -> None:
    """Warn when a loaded model is evaluated on another text or split than its own."""
    data = getattr(trainer, "datamodule", None)
    if trained_on is None or not isinstance(data, ShakespeareDataModule):
        return
    if difference := describe_difference(trained_on, data.fingerprint):
        rank_zero_warn(
            f"the model is evaluated on other data than its own: {difference}; the loss cannot be "
            "compared with its val_loss"
        )
