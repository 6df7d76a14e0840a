"""How TensorBoard arranges the curves of a run: one page of charts, over the steps taken."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from shakespeare_lm.training.compatibility import options_of_run
from shakespeare_lm.training.history import ValidationHistory
from shakespeare_lm.training.module import ShakespeareLM
from shakespeare_lm.training.run_logger import RunLogger, tag

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Of the tab with custom scalars, whose colours are those of runs: symbols tell curves apart
# (https://github.com/tensorflow/tensorboard/issues/597).
CHARTS = {
    "loss (nats per character)": ["train_loss", "train_eval_loss", "val_loss", "val_sample_loss"],
    "bits per character": ["train_bpc", "val_bpc"],
    "learning rate": ["learning_rate", "muon_learning_rate"],
    "gradient norm": ["gradient_norm"],
    "update-to-weight ratio": ["update_ratio"],
    "characters per second": ["tokens_per_second"],
    "peak memory (GiB)": ["peak_memory_gib"],
}


def tensorboard_writers(trainer: Trainer) -> list["SummaryWriter"]:
    """Return the writers of all TensorBoard loggers, in the first process only."""
    if not trainer.is_global_zero:
        return []
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return [logger.experiment for logger in loggers if logger.experiment is not None]


class StepAxis(Callback):
    """Makes the x axis of the curves the number of steps taken, as on the console.

    Lightning 2.6.6 counts separately and from 0, and is off by one after resuming from an
    unscheduled validation, such as the one after Ctrl-C
    (https://github.com/Lightning-AI/pytorch-lightning/issues/19367). It also writes old values
    again at the step at which a run stops (not reported).
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        connector = trainer._logger_connector
        log: Any = type(connector).log_metrics

        def log_metrics(metrics: Mapping[str, Any], step: int | None = None) -> None:
            step = trainer.global_step if step is None else step
            log(connector, {**metrics, "epoch": trainer.current_epoch}, step)

        connector.log_metrics = log_metrics  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        # By which Lightning finds out whether a step is logged.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: ShakespeareLM, *_: Any) -> None:  # type: ignore[override]
        if trainer.should_stop and not pl_module.is_logged(trainer.global_step - 1):
            cast(Any, trainer)._results.reset()


class TensorBoardTabs(Callback):
    """Puts curves that belong together into one chart, and describes the run in the HParams tab,
    with `best_val_loss` so far and, at its end, `final_val_loss`.

    That tab shows options that differ between runs first, and sorts metrics by name.
    """

    def __init__(self, history: ValidationHistory) -> None:
        self.history = history

    def on_train_start(self, trainer: Trainer, pl_module: ShakespeareLM) -> None:  # type: ignore[override]
        # Whatever the group of a curve is: other loggers have none.
        charts = {
            title: ["Multiline", [f"(.*/)?{name}$" for name in names]]
            for title, names in CHARTS.items()
        }
        # Without the first summary, which lists the columns: TensorBoard would take that of one run
        # for all, and not find out which options differ. (Nor with Lightning's log_hyperparams.)
        _, *row = hparams(options_of_run(trainer, pl_module), {})
        for writer in tensorboard_writers(trainer):
            writer.add_custom_scalars({"training": charts})
            # Other loggers of TensorBoard write a row of their own.
            for summary in row if isinstance(trainer.logger, RunLogger) else []:
                writer._get_file_writer().add_summary(summary)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit" and self.history.validations:
            best = min(validation.val_loss for validation in self.history.validations)
            self._write("best_val_loss", best, trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        if self.history.validations:
            self._write("final_val_loss", self.history.validations[-1].val_loss, trainer)

    def _write(self, name: str, value: float, trainer: Trainer) -> None:
        for writer in tensorboard_writers(trainer):
            writer.add_scalar(tag(name), value, trainer.global_step)
