"""The folder of a run, `lightning_logs/version_N`: claimed by one run, locked while it lives, and
described by a `config.yaml`.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from shakespeare_lm.errors import UserError


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger, with a version number that no other run gets.

    Lightning 2.6.6 takes the next free number and creates the folder later, so that two runs that
    start together write into one.
    """

    def _get_next_version(self) -> int:
        version = super()._get_next_version()
        while cast(Any, rank_zero_only).rank == 0:  # the other processes are told
            try:
                os.makedirs(os.path.join(self.root_dir, f"version_{version}"))
                break
            except FileExistsError:
                version += 1
        return version


def lock_run(folder: Path) -> FileLock:
    """Lock a run's folder until the lock is released or the process ends.

    Raises:
        UserError: if another process trains in it.
    """
    lock = FileLock(folder / ".lock")
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use: another process is training there") from None
    return lock


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml` when the training starts, and not before a checkpoint to resume from has
    been accepted: the first run's would be lost.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")
