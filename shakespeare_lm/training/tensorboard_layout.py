"""How TensorBoard arranges the curves of a run: one page of charts.

Enters: the Trainer's loggers. Leaves: the layout of the tab "Custom Scalars", and the writers that
everything else for TensorBoard goes to.
"""

from typing import TYPE_CHECKING

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

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
