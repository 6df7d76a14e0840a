"""module -> checkpoint: how a run's state gets to the disk, whole or not at all, and back.

Enters: the Trainer's state. Leaves: `best.ckpt` and `last.ckpt`, of which at every moment the one
before or the new one is there, even if the process is killed or the disk is full.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from shakespeare_lm.checkpoint.reading import read_archive
from shakespeare_lm.errors import UserError, one_line


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin, with files that are whole or absent, and checked when read.

    Lightning 2.6.6 writes to the system's temporary folder first, and moves the file from there:
    between two file systems that is a copy, which can be cut off, and nothing is flushed.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,
    ) -> None:
        """Write beside `path`, flush, and only then take its place.

        Raises:
            UserError: if it cannot be written, such as on a full disk; what was there before stays.
        """
        path = Path(path)
        # One name for all attempts: what a killed process left, the next one overwrites.
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, part)
            part.replace(path)
            _flush_folder(path.parent)
        except (OSError, RuntimeError) as error:
            kept = "the one before is kept" if path.exists() else "nothing was saved before"
            raise UserError(f"cannot write {path}: {_reason(error)}; {kept}") from error
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a file of this run: tensors and plain values, whatever else is asked for.

        The checkpoint that a user goes on from has been read by `read_checkpoint` before.
        """
        content: dict[str, Any] = read_archive(path)
        return content


def _write(checkpoint: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Let the new name survive a power failure too, where a folder can be opened for that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError | RuntimeError) -> str:
    """Return the system's reason, which torch wraps in errors of its own when a write fails."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return one_line(cause or error)


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest state in `last.ckpt`: of the start, of each validation, and when asked.

    Not `save_last`: since Lightning 2.6 that saves only when the best improves.
    """

    def __init__(self) -> None:
        super().__init__(
            filename="last", enable_version_counter=False, save_on_train_epoch_end=False
        )

    @property
    def path(self) -> Path:
        return Path(str(self.dirpath)) / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state before the first step: then every run can be gone on with."""
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now; on several processes, all of them must call this."""
        trainer.save_checkpoint(self.path)
