"""Saving a run's state atomically, and loading it: even if the process is killed or the disk is
full, either the old or the new file is there, complete.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from shakespeare_lm.checkpoint.ckpt_file import read_archive
from shakespeare_lm.checkpoint.runs import Resumable
from shakespeare_lm.errors import UserError, one_line

# What only resuming needs; the optimizer's moments make most of a checkpoint.
_TRAINING_STATE = (
    "optimizer_states", "lr_schedulers", "callbacks", "loops", "gradients",
    "current_model_state", "averaging_state",  # of Lightning's WeightAveraging
)  # fmt: skip


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin, with atomic writes and checks when reading.

    Lightning 2.6.6 moves the file from the system's temporary folder: between two file systems that
    is a copy, which can be interrupted, and nothing is flushed
    (https://github.com/Lightning-AI/pytorch-lightning/issues/19970).

    Args:
        resumed: a checkpoint that has been read already, and is not read again.
        small_best: leave the training state, which is half of it, out of `best.ckpt`.
    """

    def __init__(self, resumed: Resumable | None = None, small_best: bool = False) -> None:
        super().__init__()
        self._resumed, self._small_best = resumed, small_best

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write to a temporary file next to `path`, flush, and rename.

        Raises:
            UserError: if it cannot be written, as on a full disk, with what is there then.
        """
        path = Path(path)
        if self._small_best and path.name == "best.ckpt":
            checkpoint = {k: v for k, v in checkpoint.items() if k not in _TRAINING_STATE}
        # One name for all attempts: the next one overwrites what a killed process left.
        part = path.with_name(f".{path.name}.part")
        kept = "the previous file is kept" if path.exists() else "there is no previous file"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, part)
            part.replace(path)
            kept = "the new file is there, but may not survive a power failure"
            _flush_folder(path.parent)
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {path}: {_reason(error)}; {kept}") from error
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values only, whatever `weights_only` says."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed.path == Path(path):
            return _with_name_of_best(resumed.checkpoint.content)
        return _with_name_of_best(read_archive(path))


def _with_name_of_best(content: dict[str, Any]) -> dict[str, Any]:
    """Rename the state of `BestCheckpoint`, which up to 0.1.0 had the name of Lightning's class, so
    that a run could not have one of those, too.
    """
    states, name = content.get("callbacks"), BestCheckpoint().state_key
    if isinstance(states, dict) and name not in states:
        old = name.replace("BestCheckpoint", "ModelCheckpoint")
        content["callbacks"] = {name if key == old else key: states[key] for key in states}
    return content


def _write(checkpoint: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where folders can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError | RuntimeError) -> str:
    """Return the system's reason, which torch wraps in its own errors when a write fails."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return one_line(cause or error)


def renew_last(best: Path) -> None:
    """Replace `last.ckpt`, which is older or damaged after a kill or on a full disk, by a copy of
    `best.ckpt`; if the disk is still full, leave it.
    """
    part = best.with_name(".last.ckpt.part")
    try:
        shutil.copyfile(best, part)
        part.replace(best.with_name("last.ckpt"))
    except OSError:
        part.unlink(missing_ok=True)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the state with the lowest `val_loss` in `best.ckpt`."""

    def __init__(self) -> None:
        super().__init__(
            filename="best", monitor="val_loss", enable_version_counter=False,
            save_on_train_epoch_end=False,
        )  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best loss so far, if its checkpoint is in this run's folder.

        Lightning 2.6.6 compares folders as typed, and forgets the loss if the current folder is
        another (intended: https://github.com/Lightning-AI/pytorch-lightning/pull/12045): the next
        checkpoint, though worse, would replace the best.
        """
        path = Path(str(self.dirpath)) / "best.ckpt"
        score = state_dict.get("best_model_score")
        if score is not None and not (isinstance(score, torch.Tensor) and score.numel() == 1):
            raise UserError("invalid best val_loss in the checkpoint")
        if score is not None and path.exists():
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_model_score = self.kth_value = score
            self.best_k_models = {str(path): score}


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest state in `last.ckpt`: at the start, at each validation, and on request.

    Not `save_last`: since Lightning 2.6 that saves only when the best improves (not reported).
    """

    def __init__(self) -> None:
        super().__init__(
            filename="last", enable_version_counter=False, save_on_train_epoch_end=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass  # nothing depends on what was saved before

    @property
    def path(self) -> Path:
        return Path(str(self.dirpath)) / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state before the first step, so that every run can be resumed."""
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now; on several processes, all of them must call this."""
        trainer.save_checkpoint(self.path)
