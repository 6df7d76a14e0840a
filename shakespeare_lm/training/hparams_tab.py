"""The row of a run in TensorBoard's tab "HParams", where the runs of a sweep are compared.

Enters: a run's options and its validations. Leaves: the row, and the two losses in it.
"""

from dataclasses import asdict
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard.summary import hparams

from shakespeare_lm.data.datamodule import ShakespeareDataModule
from shakespeare_lm.training.history import ValidationHistory
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.run_folder import RunLogger
from shakespeare_lm.training.tensorboard_layout import tensorboard_writers

_DATA_OPTIONS = ("context_length", "batch_size", "window_order")
_TRAINER_OPTIONS = ("max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")


class HparamsTab(Callback):
    """Describes the run in the tab, with `best_val_loss` so far and, at its end, `final_val_loss`.

    The tab shows each option that differs between runs before those that do not, and metrics in the
    order of their names.

    Args:
        history: of the validations, of resumed runs too.
    """

    def __init__(self, history: ValidationHistory) -> None:
        self.history = history

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ShakespeareLM)
        # Other loggers of TensorBoard write a row of their own.
        if not isinstance(trainer.logger, RunLogger):
            return
        # Without the first summary, which lists the columns: TensorBoard takes it from one run for
        # all of them, and finds out which options differ only if there is none.
        _, *row = hparams(options_of_run(trainer, pl_module), {})
        for writer in tensorboard_writers(trainer):
            for summary in row:
                writer._get_file_writer().add_summary(summary)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit" and self.history.validations:
            best = min(one.val_loss for one in self.history.validations)
            self._write("best_val_loss", best, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history.validations:
            self._write("final_val_loss", self.history.validations[-1].val_loss, trainer)

    def _write(self, name: str, value: float, trainer: Trainer) -> None:
        for writer in tensorboard_writers(trainer):
            writer.add_scalar(name, value, max(0, trainer.global_step - 1))


def options_of_run(trainer: Trainer, module: ShakespeareLM) -> dict[str, str | float]:
    """Return the options on which a loss depends, by the names that one types."""
    options: dict[str, Any] = {"seed_everything": module.hparams["seed"]}
    network = {**asdict(module.config), "d_feedforward": module.config.feedforward_width}
    options.update({f"model.{name}": value for name, value in network.items()})
    options.pop("model.context_length")  # which is the data's
    options["data.context_length"] = module.config.context_length
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, ShakespeareDataModule):
        options["data.corpus"] = " ".join(map(str, data.corpus))
        values = {name: getattr(data, name) for name in _DATA_OPTIONS} | asdict(data.split_config)
        options.update({f"data.{name}": value for name, value in values.items()})
    for name in _TRAINER_OPTIONS:
        options[f"trainer.{name}"] = getattr(trainer, name)
    return {name: _shown(value) for name, value in options.items() if value is not None}


def _shown(value: object) -> str | float:
    """Return a number as it is, and anything else as it is typed."""
    if isinstance(value, bool):  # which the tab would show as 0.0000 or 1.0000
        return str(value).lower()
    return value if isinstance(value, int | float) else str(value)
