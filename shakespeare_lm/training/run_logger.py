"""TensorBoard's logger in a run's folder, and the `config.yaml` that the run leaves there."""

import os
import re
from pathlib import Path
from typing import Any, cast

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from shakespeare_lm.checkpoint.runs import LOG_FOLDER, Resumable, Run
from shakespeare_lm.errors import UserError

# How TensorBoard groups the curves: it sorts groups by name, and opens the first two. In its table
# of runs "-" comes before "/", so that the best loss is the first metric there.
_GROUPS = {
    "loss": ["train_loss", "train_eval_loss", "val_loss", "val_sample_loss"],
    "loss-summary": ["best_val_loss", "final_val_loss", "test_loss"],
    "optimizer": ["learning_rate", "muon_learning_rate", "gradient_norm", "update_ratio"],
    "other_units": ["train_bpc", "val_bpc", "val_perplexity", "test_bpc", "test_perplexity"],
    "speed": ["tokens_per_second", "peak_memory_gib"],
}
# Of a run, or of one of its folders.
_NAME = r"(?!version_\d+(?:/|$))\w[\w.-]*"
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


def tag(name: str) -> str:
    """Return the name of a metric in TensorBoard: `group/name` for those of this project."""
    return f"{_GROUP_OF[name]}/{name}" if name in _GROUP_OF else name


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger, in a folder `version_N` under `runs` that no other run gets.

    Lightning 2.6.6 creates the folder later, so that two runs that start together write into one
    (https://github.com/Lightning-AI/pytorch-lightning/issues/11418).
    Without `writes`, the folder holds options and checkpoints only.
    """

    def __init__(self, runs: Path, writes: bool = True, **options: Any) -> None:
        super().__init__(runs.parent, runs.name, default_hp_metric=False, **options)
        self.writes = writes

    @property
    def run(self) -> Run:
        """The run whose folder this is."""
        return Run(Path(self.log_dir))

    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Write `hparams.yaml`; the row in TensorBoard's tab is `TensorBoardTabs`'s."""
        if self.writes:
            super().log_hyperparams(params, metrics, step)

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer; None for a run without a log."""
        return super().experiment if self.writes else None

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.writes:
            # Lightning adds the epoch to all metrics, which would be the first curve.
            curves = {tag(name): value for name, value in metrics.items() if name != "epoch"}
            super().log_metrics(curves, step)

    def save(self) -> None:
        if self.writes:
            super().save()

    def _get_next_version(self) -> int:
        # Lightning 2.6.6 fails on a name such as version_² (not reported).
        versions = [Run(path).version for path in Path(self.root_dir).glob("version_*")]
        version = max((v for v in versions if v is not None), default=-1) + 1
        while cast(Any, rank_zero_only).rank == 0:  # the other processes are told
            try:
                os.makedirs(os.path.join(self.root_dir, f"version_{version}"))
                break
            except FileExistsError:
                version += 1
        return version


def logger_of_run(root: Path, name: str, resumed: Resumable | None, writes: bool) -> RunLogger:
    """Return a logger with a new folder in `root/lightning_logs/name`, or the resumed run's.

    Raises:
        UserError: if the name cannot be a folder of its own; empty is no name.
    """
    if name and not re.fullmatch(rf"{_NAME}(/{_NAME})*", name):
        raise UserError(
            f"name is {name!r}: expected letters, digits, _, - and ., / between folders, and not "
            "version_N"
        )
    run = resumed.run if resumed else None
    folder = resumed.path.resolve().parent if resumed else root
    if resumed and run and run.version is not None and folder.name == "checkpoints":
        # The resumed run logs again what the first run logged after this checkpoint.
        step = resumed.step + 1
        return RunLogger(run.folder.parent, writes, version=run.version, purge_step=step)
    return RunLogger(root / LOG_FOLDER / name, writes)


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml` when the training starts: in `setup`, as in Lightning, the first run's
    would be lost before the checkpoint to resume from has been accepted (not reported).
    """

    def __init__(self, *arguments: Any, recipe: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.recipe = recipe

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = trainer.log_dir  # in all processes: the first tells the others
        if folder is None:  # loggers of services may have no folder
            return
        super().setup(trainer, pl_module, "fit")
        if trainer.is_global_zero:
            Run(Path(folder)).name_recipe(self.recipe)
