"""Does this run fit the checkpoint, and the data the model? Differences are named."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

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
    "characters_ahead", "objective",
)  # fmt: skip
_DATA_OPTIONS = ("batch_size", "window_order")
_TRAINER_OPTIONS = ("max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")
# The schedule's end is another one on purpose; the text itself is compared.
_MAY_CHANGE = ("trainer.max_steps", "model.decay_steps", "model.restart_step", "data.corpus")
_STEPS = "epoch_loop.automatic_optimization.optim_progress"  # in Lightning's state


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


def check_progress(content: Mapping[str, Any], path: Path, expected: Mapping[str, Any]) -> None:
    """Raise a `UserError` unless a checkpoint counts steps, batches and epochs in the form of
    `expected`, which the Trainer saves, and as many steps as it says.
    """
    has_loop = _has_form(content, {"loops": {"fit_loop": {}}})
    stored = content["loops"]["fit_loop"] if has_loop else {}
    # Versions of Lightning have other entries, but the same names within one.
    known = {name: form for name, form in expected.items() if name in stored or name == _STEPS}
    if not _has_form(stored, known):
        raise UserError(f"{path}: invalid counts of steps, batches and epochs")
    steps = stored[_STEPS]["optimizer"]["step"]["total"]["completed"]
    if steps != content["global_step"]:
        raise UserError(f"{path}: global_step is not {steps}, the number of the optimizer's steps")


def _has_form(stored: object, form: object) -> bool:
    if isinstance(form, dict):
        return isinstance(stored, dict) and all(
            name in stored and _has_form(stored[name], part) for name, part in form.items()
        )
    return type(stored) is type(form) and stored >= 0  # type: ignore[operator]


def check_processes(trainer: Trainer | None, checkpoint: Mapping[str, Any]) -> None:
    """Raise a `UserError`, in all processes, if they found different checkpoints to resume from, as
    while another run wrote one.
    """
    if trainer is None or trainer.world_size == 1:
        return
    found = f"{Path(str(trainer.ckpt_path)).resolve()} {checkpoint.get('global_step')}"
    if not trainer.strategy.reduce_boolean_decision(trainer.strategy.broadcast(found) == found):
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


def warn_about_other_options(stored: object, ours: Mapping[str, Any]) -> None:
    """Warn when a run is resumed with other options than a checkpoint's, `options_of_run`. Most of
    those that change the network or the optimizer are refused before.
    """
    changed = [
        f"{name} {value} (was {str(stored[name])[:80]})"
        for name, value in ours.items()
        if isinstance(stored, dict) and name not in _MAY_CHANGE
        # Printing nested lists from a hostile file can take forever.
        and isinstance(stored.get(name), str | float | int) and stored[name] != value
    ]  # fmt: skip
    if changed:
        rank_zero_warn(f"resuming with other options than before: {', '.join(changed)}")


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


def options_of_run(trainer: Trainer, module: Any) -> dict[str, str | float]:
    """Return the options on which the loss depends, by the names of the command line."""
    model = {**asdict(module.config), "d_feedforward": module.config.feedforward_width}
    seed, context_length = module.hparams["seed"], model.pop("context_length")
    options = {"seed_everything": seed, "data.context_length": context_length}
    options |= {f"model.{name}": value for name, value in model.items()}
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, ShakespeareDataModule):
        options["data.corpus"] = " ".join(map(str, data.corpus))
        values = {name: getattr(data, name) for name in _DATA_OPTIONS} | asdict(data.split_config)
        options |= {f"data.{name}": value for name, value in values.items()}
    options |= {f"trainer.{name}": getattr(trainer, name) for name in _TRAINER_OPTIONS}
    return {name: _shown(value) for name, value in options.items() if value not in (None, "")}


def _shown(value: object) -> str | float:
    """Return a number as it is, and anything else as it is typed."""
    if isinstance(value, bool):  # which the tab would show as 0.0000 or 1.0000
        return str(value).lower()
    return value if isinstance(value, int | float) else str(value)
