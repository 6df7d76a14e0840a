"""The folder of a run, `lightning_logs/version_N`: claimed, locked, described by `config.yaml`."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from shakespeare_lm.checkpoint.runs import LOG_FOLDER, Resumable
from shakespeare_lm.errors import UserError


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger, in a folder `version_N` under `runs` that no other run gets.

    Lightning 2.6.6 creates the folder later, so that two runs that start together write into one.
    Without `writes`, the folder holds options and checkpoints only.
    """

    def __init__(self, runs: Path, writes: bool = True, **options: Any) -> None:
        super().__init__(runs.parent, runs.name, default_hp_metric=False, **options)
        self.writes = writes

    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Write `hparams.yaml`; the row in TensorBoard's tab is `HparamsTab`'s."""
        if self.writes:
            super().log_hyperparams(params, metrics, step)

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer; None for a run without a log."""
        return super().experiment if self.writes else None

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.writes:
            # Lightning adds the epoch to all metrics, which would be the first curve.
            curves = {name: value for name, value in metrics.items() if name != "epoch"}
            super().log_metrics(curves, step)

    def save(self) -> None:
        if self.writes:
            super().save()

    def _get_next_version(self) -> int:
        version = super()._get_next_version()
        while cast(Any, rank_zero_only).rank == 0:  # the other processes are told
            try:
                os.makedirs(os.path.join(self.root_dir, f"version_{version}"))
                break
            except FileExistsError:
                version += 1
        return version


def check_run_name(name: str) -> None:
    """Raise a `UserError` if the name of a run cannot be a folder of its own; empty is no name."""
    if name and not re.fullmatch(r"(?!version_\d+$)\w[\w.-]*", name):
        raise UserError(
            f"name is {name!r}: expected letters, digits, _, - and ., and not version_N"
        )


def logger_of_run(root: Path, name: str, resumed: Resumable | None, writes: bool) -> RunLogger:
    """Return a logger with a new folder in `root/lightning_logs/name`, or the resumed run's."""
    if resumed is not None:
        checkpoints = resumed.path.resolve().parent
        match = re.fullmatch(r"version_(\d+)", checkpoints.parent.name)
        if match and checkpoints.name == "checkpoints":
            # The resumed run logs again what the first run logged after this checkpoint.
            runs, version = checkpoints.parents[1], int(match[1])
            return RunLogger(runs, writes, version=version, purge_step=resumed.step)
    return RunLogger(root / LOG_FOLDER / name, writes)


def lock_run(folder: Path) -> FileLock:
    """Lock a run's folder, or raise a `UserError` if another process trains there; remove what a
    killed process has half written.
    """
    lock = FileLock(folder / ".lock")
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use: another process is training there") from None
    for part in folder.glob("checkpoints/.*.part"):
        part.unlink()
    return lock


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml` when the training starts: in `setup`, as in Lightning, the first run's
    would be lost before the checkpoint to resume from has been accepted.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.log_dir is not None:  # loggers of services may have no folder
            super().setup(trainer, pl_module, "fit")
