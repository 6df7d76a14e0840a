"""How TensorBoard arranges the curves of a run: one page of charts, over the steps taken.

Enters: the Trainer's loggers. Leaves: the layout of the tab "Custom Scalars", and the writers that
everything else for TensorBoard goes to.
"""

from typing import TYPE_CHECKING, Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from shakespeare_lm.data.windows import Batch
from shakespeare_lm.training.module import ShakespeareLM

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CHARTS = {
    "loss (nats per character)": ["train_loss", "train_eval_loss", "val_loss"],
    "bits per character": ["train_bpc", "val_bpc"],
    "learning rate": ["learning_rate", "muon_learning_rate"],
    "gradient norm": ["gradient_norm"],
    "update-to-weight ratio": ["update_ratio"],
    "characters per second": ["tokens_per_second"],
    "peak memory (GiB)": ["peak_memory_gib"],
}


def tensorboard_writers(trainer: Trainer) -> list["SummaryWriter"]:
    """Return the writers of all TensorBoard loggers; none with other loggers, and none in other
    processes than the first.
    """
    if not trainer.is_global_zero:
        return []
    loggers = [one for one in trainer.loggers if isinstance(one, TensorBoardLogger)]
    return [one.experiment for one in loggers if one.experiment is not None]


class TensorBoardLayout(Callback):
    """Puts the curves that belong together into one chart."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        charts = {title: ["Multiline", tags] for title, tags in CHARTS.items()}
        for writer in tensorboard_writers(trainer):
            writer.add_custom_scalars({"training": charts})


class StepAxis(Callback):
    """Keeps the x axis of the curves equal to the number of steps taken.

    Lightning 2.6.6 counts it separately, and is off by one after resuming from the checkpoint of an
    unscheduled validation, such as the one after Ctrl-C. It also writes old values again at the
    step at which a run stops, where nothing new has been logged.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Within an accumulated step too: a resumed run repeats everything from its own step on.
        trainer.fit_loop.epoch_loop._batches_that_stepped = max(0, trainer.global_step - 1)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, ShakespeareLM)
        if trainer.should_stop and not pl_module.is_logged(trainer.global_step - 1):
            cast(Any, trainer)._results.reset()
